"""The contrastive trainer: it learns, repeats itself, keeps the mean of the weights and says what went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive import activation_memory
from clip_fewshot.contrastive.activation_memory import LossScale
from clip_fewshot.contrastive.distributed.world import SingleProcess, World
from clip_fewshot.contrastive.objectives import symmetric_objective
from clip_fewshot.contrastive.options import ContrastiveOptions, paper_options
from clip_fewshot.contrastive.trainer import StepReport
from clip_fewshot.contrastive.validation import Validation, validate
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.errors import DivergedError, UsageError
from tests.contrastive.pairs import CONFIG, RESNET, patterns


def options(steps: int, **changes: object) -> ContrastiveOptions:
    plain = ContrastiveOptions(steps=steps, learning_rate=3e-3, weight_decay=0.05)
    return replace(plain, **changes)  # type: ignore[arg-type]


def train(chosen: ContrastiveOptions, ids: bool = True, **rest: object) -> tuple[cf.Backbone, list[StepReport]]:
    reports: list[StepReport] = []
    backbone = build_backbone(CONFIG, seed=0)
    batches = patterns(8, ids=ids)
    return cf.train_contrastive(backbone, batches, chosen, on_step=reports.append, **rest), reports  # type: ignore[arg-type]


def same(first: cf.Backbone, second: cf.Backbone) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_learns_down_to_the_floor_of_the_batch() -> None:
    _, reports = train(options(80))
    assert reports[-1].floor == pytest.approx(math.log(2))
    assert reports[-1].loss - reports[-1].floor < 0.05 < reports[0].loss - reports[0].floor
    assert [report.step for report in reports] == list(range(80))
    assert [report.epoch for report in reports] == [step // 8 for step in range(80)]


def test_identity_targets_stop_at_the_floor_that_shared_ones_announce() -> None:
    """The original's ln 5: with two copies of each caption, ln 2, for both; only the report tells."""
    _, reports = train(options(60, identity_targets=True))
    assert math.log(2) <= reports[-1].loss < math.log(2) + 0.05
    _, silent = train(options(2), ids=False)
    assert silent[0].floor == 0


def test_equal_runs_end_in_equal_weights() -> None:
    assert same(train(options(5))[0], train(options(5))[0])


def test_chunks_and_recomputed_blocks_change_rounding_alone() -> None:
    """A tenth of the paper's eps would blow rounding up where gradients vanish; hence the larger one."""
    plain, lean = (train(options(6, eps=1e-3, **how))[0] for how in ({}, {"chunk": 3, "checkpoint_gradients": True}))
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(lean.get_parameter(name), weight, rtol=1e-4, atol=1e-5)


def test_the_result_is_the_running_mean() -> None:
    kept: list[Tensor] = []
    backbone = build_backbone(CONFIG, seed=0)
    mean = backbone.get_parameter("visual.proj").detach().double().clone()
    remember = lambda report: kept.append(backbone.get_parameter("visual.proj").detach().double().clone())  # noqa: E731
    cf.train_contrastive(backbone, patterns(4), options(4, averaging=0.2), on_step=remember)
    for step, weight in enumerate(kept, start=1):
        decay = min(0.2, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weight
    assert torch.allclose(backbone.get_parameter("visual.proj").double(), mean, atol=1e-6)


def test_the_scale_stays_at_most_a_hundred() -> None:
    backbone = build_backbone(CONFIG, seed=0)
    with torch.no_grad():
        backbone.logit_scale.fill_(4.7)
    cf.train_contrastive(backbone, patterns(1), options(1))
    assert float(backbone.logit_scale.detach().double().exp()) <= 100 * (1 + 1e-6)


def test_no_decay_on_norms_biases_and_the_scale() -> None:
    backbone = build_backbone(CONFIG, seed=0)
    before = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    nothing = lambda images, texts, scale, ids: 0 * (images.sum() + texts.sum() + scale)  # noqa: E731
    cf.train_contrastive(backbone, patterns(1), options(1, weight_decay=0.5), objective=nothing)
    moved = {name for name, p in backbone.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in before.items() if p.ndim >= 2}


def test_rates_of_parts_and_frozen_parts() -> None:
    backbone = build_backbone(CONFIG, seed=0)
    before = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    backbone.text.requires_grad_(False)
    chosen = options(1, rates={"visual": 1e-9, "visual.proj": 1e-2}, weight_decay=0.0, warmup_steps=1)
    cf.train_contrastive(backbone, patterns(1), chosen)
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in backbone.named_parameters()}
    assert moved["visual.proj"] == pytest.approx(1e-2, rel=0.01)
    assert moved["visual.conv1.weight"] < 1e-6
    assert all(moved[name] == 0 for name in moved if name.startswith("text."))
    with pytest.raises(UsageError, match="visul"):
        cf.train_contrastive(build_backbone(CONFIG), patterns(1), options(1, rates={"visul": 1.0}))


def test_a_frozen_tower_keeps_its_batch_statistics() -> None:
    backbone = build_backbone(RESNET, seed=0)
    backbone.visual.requires_grad_(False)
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    cf.train_contrastive(backbone, patterns(2, size=32), options(2))
    assert before
    assert all(torch.equal(before[name], value) for name, value in backbone.named_buffers())


def test_an_objective_with_a_memory_is_trained_and_told() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain, self.told = torch.nn.Parameter(torch.ones(())), list[str]()

        def prepare(self, batch: PairBatch, world: World, chunk: int | None) -> None:
            self.told.append(f"batch of {len(batch.images)}")

        def after_step(self, model: cf.Backbone) -> None:
            self.told.append("step")

        def forward(self, images: Tensor, texts: Tensor, scale: Tensor, ids: Tensor | None) -> Tensor:
            return symmetric_objective(self.gain * images, texts, scale, ids) + self.gain**2

    objective = Scaled()
    train(options(2), objective=objective)
    assert objective.told == ["batch of 8", "step"] * 2
    assert float(objective.gain.detach()) < 1


def test_the_paper_s_numbers() -> None:
    vit, resnet = paper_options("ViT-B/32"), paper_options("RN50x64", steps=9)
    assert (vit.learning_rate, vit.betas, vit.eps, vit.weight_decay) == (5e-4, (0.9, 0.98), 1e-6, 0.2)
    assert (vit.epochs, vit.steps, vit.warmup_steps) == (32, None, 2000)
    assert (resnet.learning_rate, resnet.betas, resnet.eps) == (3.6e-4, (0.9, 0.999), 1e-8)
    assert (resnet.epochs, resnet.steps) == (None, 9)
    assert paper_options("ViT-L/14-336px").learning_rate == 2e-5
    assert paper_options("ViT-L/14").learning_rate == 4e-4
    with pytest.raises(UsageError, match="ViT-B/32"):
        paper_options("ViT-B/33")


def test_metrics_and_validation_are_written(tmp_path: Path) -> None:
    validation = Validation(patterns(3, seed=5), every=4)
    seen: list[tuple[int, dict[str, float]]] = []
    remember = lambda step, figures: seen.append((step, figures))  # noqa: E731
    train(options(10), folder=tmp_path, validation=validation, on_validation=remember)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == list(range(1, 11))
    assert {"loss", "floor", "steps_per_second", "data_seconds", "compute_seconds", "learning_rate"} <= steps[0].keys()
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [4, 8, 10] == [step for step, _ in seen]
    assert seen[-1][1]["image_to_text_recall@1"] > 0.6
    assert seen[-1][1]["text_to_image_recall@10"] == 1
    assert [line["step"] for line in lines if line["kind"] == "checkpoint"] == [8, 10]


def test_validation_equals_what_it_is_defined_as() -> None:
    backbone = build_backbone(replace(CONFIG, vocab_size=49_408, context_length=77), seed=0)
    digits = cf.read_dataset("digits").subset(torch.arange(40).numpy())
    pairs = patterns(2, seed=5)
    found = validate(backbone, Validation(pairs, digits), SingleProcess())
    losses = []
    with torch.no_grad():
        for part in pairs:
            images, texts = backbone.encode_image(part.images), backbone.encode_text(part.tokens)
            losses.append(float(symmetric_objective(images, texts, backbone.logit_scale, part.caption_ids)))
    assert found["loss"] == pytest.approx(sum(losses) / 2)
    assert 0 <= found["zero_shot_accuracy"] <= 1
    assert not backbone.training


@pytest.mark.parametrize("given", [{"steps": 0}, {"epochs": 3, "steps": 3}, {}, {"steps": 1, "averaging": 1.0}])
def test_options_out_of_range(given: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ContrastiveOptions(**given)  # type: ignore[arg-type]


def test_says_what_is_wrong(tmp_path: Path) -> None:
    backbone = build_backbone(CONFIG, seed=0)
    with pytest.raises(UsageError, match=r"expected 3 batches, got 2"):
        cf.train_contrastive(backbone, iter(patterns(2)), options(3))
    with pytest.raises(UsageError, match="steps in place of epochs"):
        cf.train_contrastive(backbone, iter(patterns(2)), ContrastiveOptions(epochs=1))
    with pytest.raises(UsageError, match="folder"):
        cf.train_contrastive(backbone, patterns(2), options(1), resume=True)
    broken = [replace(part, images=part.images * torch.nan) for part in patterns(1)]
    with pytest.raises(DivergedError, match=r"step 1 of 1.*finite"):
        cf.train_contrastive(backbone, broken, options(1))
    lean = options(1, text_weights="bfloat16")
    with pytest.raises(UsageError, match="bfloat16 activations"):
        cf.train_contrastive(backbone, patterns(1), lean)


def test_an_overflow_is_left_out_and_halves_the_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float16 on a device; here its range is played by gradients that burst above a factor."""
    backbone = build_backbone(CONFIG, seed=0)
    burst = lambda grad: torch.where(grad.abs().max() > 1e3, torch.inf, 1.0) * grad  # noqa: E731
    backbone.get_parameter("visual.proj").register_hook(burst)
    monkeypatch.setattr("clip_fewshot.contrastive.state.activation_dtype", lambda model: torch.float16)
    reports: list[StepReport] = []
    weights = [backbone.get_parameter("visual.proj").detach().clone()]

    def keep(report: StepReport) -> None:
        reports.append(report)
        weights.append(backbone.get_parameter("visual.proj").detach().clone())

    cf.train_contrastive(backbone, patterns(8), options(16), on_step=keep)
    skipped = [report.skipped for report in reports]
    assert skipped[0]
    assert not skipped[-1]
    for report, before, after in zip(reports, weights, weights[1:], strict=False):
        assert torch.equal(before, after) is report.skipped
    assert all(torch.isfinite(p).all() for p in backbone.parameters())


def test_the_factor_of_the_loss() -> None:
    scale = LossScale.for_float16()
    assert not scale.take(finite=False)
    assert scale.factor == 2.0**15
    assert all(scale.take(finite=True) for _ in range(activation_memory.GROWTH_INTERVAL))
    assert scale.factor == 2.0**16
    with pytest.raises(DivergedError):
        LossScale().take(finite=False)
    with pytest.raises(DivergedError):
        LossScale(1.0, 0, True).take(finite=False)


def test_an_iterator_is_never_asked_for_more_than_it_needs() -> None:
    def three() -> Iterator[PairBatch]:
        yield from patterns(3)
        pytest.fail("one too many")

    cf.train_contrastive(build_backbone(CONFIG), three(), options(3))
