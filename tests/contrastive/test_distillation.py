"""Self-distillation: the running mean runs the right way, and its targets teach through chunks and processes."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive.distillation import SelfDistillation
from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.trainer import StepReport
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.errors import UsageError
from clip_fewshot.losses import distillation_floor, distillation_loss, symmetric_cross_entropy, transport_targets
from tests.contrastive.pairs import CONFIG, RESNET, Double, batch
from tests.contrastive.test_gradients import Threads, gradients, worst


def moved(model: torch.nn.Module, by: float) -> torch.nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(by)
    return other


def test_the_teacher_follows_slowly() -> None:
    """teacher = m * teacher + (1 - m) * student; with the weights swapped it would be the student one step late."""
    student = Double()
    distillation = SelfDistillation(student, momentum=0.9)
    distillation.updates.fill_(10_000)  # long after the start
    start = copy.deepcopy(distillation.teacher.state_dict())
    distillation.after_step(moved(student, 1.0))
    for name, mean in distillation.teacher.state_dict().items():
        torch.testing.assert_close(mean, start[name] + 0.1, rtol=1e-12, atol=1e-12)
    for _ in range(6):
        distillation.after_step(moved(student, 1.0))
    for name, mean in distillation.teacher.state_dict().items():
        torch.testing.assert_close(mean, start[name] + 1 - 0.9**7, rtol=1e-12, atol=1e-12)


def test_at_the_start_the_teacher_follows_faster() -> None:
    student = Double()
    distillation = SelfDistillation(student, momentum=0.999)
    start = distillation.teacher.logit_scale.clone()
    expected = 0.0
    for t in range(30):
        distillation.after_step(moved(student, 1.0))
        m = (1 + t) / (10 + t)
        expected = m * expected + (1 - m)
        torch.testing.assert_close(distillation.teacher.logit_scale, start + expected, rtol=0, atol=1e-12)
    assert expected > 0.99  # at 0.999 from the first step on it would be 0.03


def test_the_teacher_shares_nothing_and_takes_no_gradient() -> None:
    student = Double(RESNET, dropout=0.5).train()
    distillation = SelfDistillation(student).train()
    assert not any(p.requires_grad for p in distillation.parameters())
    assert not any(module.training for module in distillation.teacher.modules())
    pairs = batch(6, size=32)
    before = copy.deepcopy(distillation.state_dict())
    distillation.prepare(pairs)
    contrastive_gradients(student, pairs, distillation)
    assert all(torch.equal(value, before[name]) for name, value in distillation.state_dict().items())
    assert all(p.grad is None for p in distillation.parameters())
    running = [b for name, b in student.named_buffers() if name.endswith("running_mean")]
    assert running[0].abs().max() > 0  # the student's normalisations have moved ...
    distillation.after_step(student)
    kept = [b for name, b in distillation.teacher.named_buffers() if name.endswith("running_mean")]
    assert torch.equal(kept[0], running[0])  # ... and the teacher's go with them


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_chunks_give_the_gradient_of_the_whole_batch(chunk: int | None) -> None:
    model, pairs = Double(), batch(7)
    distillation = SelfDistillation(moved(model, 0.02), alpha=0.4)
    model.zero_grad()
    teacher = distillation.teacher
    with torch.no_grad():
        targets = transport_targets(
            teacher.encode_image(pairs.images), teacher.encode_text(pairs.tokens), caption_ids=pairs.caption_ids
        )
    images, texts = (
        torch.nn.functional.normalize(x, dim=1)
        for x in (model.encode_image(pairs.images), model.encode_text(pairs.tokens))
    )
    loss = distillation_loss(model.logit_scale.exp() * images @ texts.T, targets, 0.4, pairs.caption_ids)
    loss.backward()
    right = copy.deepcopy(gradients(model))
    distillation.prepare(pairs, chunk=chunk)
    ours = contrastive_gradients(model, pairs, distillation, chunk=chunk)
    assert abs(float(ours - loss.detach())) < 1e-12
    assert worst(gradients(model), right) < 1e-9
    # Chunks multiply matrices of other shapes, so that the last bits of the teacher's features differ.
    assert distillation.floor() == pytest.approx(distillation_floor(targets, 0.4, pairs.caption_ids), rel=1e-12)
    assert distillation.floor() < float(ours)


def test_without_a_teachers_share_it_is_the_contrastive_loss() -> None:
    model, pairs = Double(), batch(7)
    distillation = SelfDistillation(model, alpha=0.0)
    distillation.prepare(pairs)
    ours = contrastive_gradients(model, pairs, distillation)

    def plain(images: Tensor, texts: Tensor, scale: Tensor, ids: Tensor | None) -> Tensor:
        images, texts = (torch.nn.functional.normalize(x, dim=1) for x in (images, texts))
        return symmetric_cross_entropy(scale.exp() * images @ texts.T, ids)

    assert float(ours) == pytest.approx(float(contrastive_gradients(model, pairs, plain)), abs=1e-12)


@pytest.mark.parametrize("shards", [(4, 3), (7, 0), (2, 4, 1)])
def test_processes_give_the_gradient_of_one(shards: tuple[int, ...]) -> None:
    pairs, student = batch(7), Double()
    alone = SelfDistillation(moved(student, 0.02))
    alone.prepare(pairs)
    contrastive_gradients(student, pairs, alone)
    right = copy.deepcopy(gradients(student))
    world = Threads(len(shards))
    found: dict[int, dict[str, Tensor]] = {}

    def work(rank: int, rows: Tensor) -> None:
        assert pairs.caption_ids is not None
        part = PairBatch(pairs.images[rows], pairs.tokens[rows], pairs.caption_ids[rows])
        model, distillation = copy.deepcopy(student), copy.deepcopy(alone)
        distillation.prepare(part, world.of(rank), chunk=2)
        contrastive_gradients(model, part, distillation, world=world.of(rank), chunk=2)
        found[rank] = gradients(model)

    threads = [
        threading.Thread(target=work, args=(rank, rows)) for rank, rows in enumerate(torch.arange(7).split(shards))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == len(shards)
    for ours in found.values():
        assert worst(ours, right) < 1e-9


def test_targets_of_the_batch_before_are_never_used() -> None:
    student, pairs = Double(), batch(5)
    distillation = SelfDistillation(student)
    with pytest.raises(UsageError, match="prepare"):
        contrastive_gradients(student, pairs, distillation)
    distillation.prepare(pairs)
    contrastive_gradients(student, pairs, distillation)
    distillation.after_step(student)
    with pytest.raises(UsageError, match="prepare"):
        contrastive_gradients(student, pairs, distillation)


def test_the_teacher_is_in_the_state_dict() -> None:
    student = build_backbone(CONFIG, seed=0)
    distillation = SelfDistillation(student)
    for by in (0.1, 0.2):
        distillation.after_step(moved(student, by))
    again = SelfDistillation(build_backbone(CONFIG, seed=1))
    again.load_state_dict(distillation.state_dict())
    assert int(again.updates) == 2
    for other in (distillation, again):
        other.after_step(moved(student, 0.5))
    assert all(torch.equal(v, distillation.state_dict()[k]) for k, v in again.state_dict().items())


def test_a_training_that_was_stopped_goes_on_with_its_teacher(tmp_path: Path) -> None:
    batches = [batch(6, seed, dtype=torch.float32) for seed in range(5)]
    options = ContrastiveOptions(steps=5, learning_rate=1e-2, save_every=2)

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise KeyboardInterrupt

    ends = []
    for folder in (tmp_path / "straight", tmp_path / "stopped"):
        model = build_backbone(CONFIG, seed=0)
        teacher = SelfDistillation(model)
        if folder.name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                cf.train_contrastive(model, batches, options, objective=teacher, folder=folder, on_step=stop)
            model = build_backbone(CONFIG, seed=1)
            teacher = SelfDistillation(model)
        reports: list[StepReport] = []
        again = {"folder": folder, "resume": True, "on_step": reports.append}
        cf.train_contrastive(model, batches, options, objective=teacher, **again)
        assert int(teacher.updates) == 5
        assert reports[-1].floor == teacher.floor() > 0
        ends.append(model.state_dict() | teacher.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("wrong", [{"alpha": 1.1}, {"momentum": 1.0}, {"temperature": 0.0}, {"within": -1.0}])
def test_numbers_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        SelfDistillation(Double(), **wrong)
