"""What trains, at which rate, and heads that become part of the projections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import clip_fewshot as cf
from clip_fewshot.backbones.architectures import ARCHITECTURES, CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.config import Depth
from clip_fewshot.contrastive import finetuning
from clip_fewshot.contrastive.finetuning import FineTuning, count_parameters, make_tunable
from clip_fewshot.contrastive.tuned_files import load_tuned, save_tuned
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.data.pairs.captioned import CaptionedStream
from tests.backbones.encoders import pair
from tests.conftest import TINY

RESNET = CLIPConfig(
    embed_dim=32,
    image_size=32,
    vision_layers=(1, 1, 1, 1),
    vision_width=8,
    vision_heads=4,
    patch_size=None,
    text_width=32,
    text_layers=2,
    text_heads=2,
)


def inputs(model: cf.Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(4, 3, model.image_size, model.image_size, generator=torch.Generator().manual_seed(0))
    return images, model.tokenize(["a", "a b", "a b c d", "e f"])


@torch.no_grad()
def features(model: cf.Backbone) -> list[torch.Tensor]:
    images, tokens = inputs(model)
    return [model.encode_image(images), model.encode_text(tokens)]


def disturb_heads(model: cf.Backbone) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".head." in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("config", [TINY, RESNET], ids=["vit", "resnet"])
def test_a_head_starts_as_the_identity_and_is_merged_exactly(config: CLIPConfig) -> None:
    plain = build_backbone(config)
    tuned = make_tunable(plain, FineTuning(unfreeze=1, head="linear"))
    for mine, base in zip(features(tuned), features(plain), strict=True):
        torch.testing.assert_close(mine, base, rtol=1e-5, atol=1e-6)
    disturb_heads(tuned)
    before = features(tuned)
    one = finetuning.merge_heads(tuned)
    assert one.state_dict().keys() == plain.state_dict().keys()
    assert any(not torch.allclose(a, b, rtol=1e-2) for a, b in zip(before, features(plain), strict=True))
    for mine, base in zip(features(one), before, strict=True):
        torch.testing.assert_close(mine, base, rtol=1e-4, atol=1e-6)
    for mine, base in zip(features(tuned), before, strict=True):
        assert torch.equal(mine, base)  # merging worked on a copy


@pytest.mark.parametrize(("unfreeze", "head"), [(0, "linear"), (1, "none"), (2, "linear")])
def test_a_pair_of_encoders_is_tuned_merged_and_read_back(unfreeze: int, head: str, tmp_path: Path) -> None:
    plain = pair()
    plan = FineTuning(unfreeze=unfreeze, head=head, backbone_lr=1e-3, head_lr=1e-2)  # type: ignore[arg-type]
    tuned = make_tunable(plain, plan)
    before = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    cf.train_contrastive(tuned, [PairBatch(*inputs(tuned))], plan.options(steps=3, weight_decay=0.0))
    moved = {name for name, tensor in tuned.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved <= {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert any(name.startswith("visual.") for name in moved)
    save_tuned(tuned, tmp_path)
    again = load_tuned(tmp_path, plain)
    assert isinstance(again, PairBackbone)
    assert again.state_dict().keys() == plain.state_dict().keys()
    for mine, saved in zip(features(again), features(tuned), strict=True):
        torch.testing.assert_close(mine, saved, rtol=1e-4, atol=1e-5)
    with pytest.raises(cf.UsageError, match="a pair of encoders"):
        load_tuned(tmp_path, build_backbone(TINY))
    merged = finetuning.merge_heads(tuned)
    assert isinstance(merged, PairBackbone)
    assert merged.visual.unfrozen == unfreeze  # and what is locked stays so
    assert not any(p.requires_grad for p in merged.visual.stem.parameters())


def test_only_the_planned_parts_move_and_only_at_their_rates() -> None:
    plain = build_backbone(TINY)
    plan = FineTuning(unfreeze=1, head="linear", lock="text", backbone_lr=1e-4, head_lr=1e-2)
    tuned = make_tunable(plain, plan)
    images, tokens = inputs(tuned)
    start = {name: p.detach().clone() for name, p in tuned.named_parameters()}
    cf.train_contrastive(tuned, [PairBatch(images, tokens)], plan.options(steps=1, weight_decay=0.0))
    moved = {name: float((p.detach() - start[name]).abs().max()) for name, p in tuned.named_parameters()}
    last = {f"visual.base.{name}" for name in plain.visual.last_parameters(1)}
    assert {name for name, size in moved.items() if size} <= last | {"visual.head.weight", "logit_scale"}
    # Adam's first step is the learning rate wherever the gradient is not tiny.
    assert moved["visual.head.weight"] == pytest.approx(1e-2, rel=0.05)
    assert max(moved[name] for name in last) == pytest.approx(1e-4, rel=0.05)
    assert moved["logit_scale"] == pytest.approx(1e-4, rel=0.05)
    assert [tower for tower, parts in (("visual", tuned.visual), ("text", tuned.text)) if parts.training] == []


@pytest.mark.parametrize("head", ["none", "linear", "attention"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("config", [TINY, RESNET], ids=["vit", "resnet"])
def test_all_parameters_train_and_come_back(head: str, optimizer: str, config: CLIPConfig, tmp_path: Path) -> None:
    plain = build_backbone(config)
    plan = FineTuning(unfreeze="all", head=head, backbone_lr=1e-3)  # type: ignore[arg-type]
    tuned = make_tunable(plain, plan)
    assert all(p.requires_grad for p in tuned.parameters())
    start = {name: p.detach().clone() for name, p in tuned.named_parameters()}
    options = plan.options(steps=3, weight_decay=0.2, optimizer=optimizer)
    cf.train_contrastive(tuned, [PairBatch(*inputs(tuned))], options)
    moved = {name for name, p in tuned.named_parameters() if not torch.equal(p, start[name])}
    stems = {name for name in start if "embedding" in name or "ln_pre" in name or ".conv1." in name}
    assert stems <= moved
    assert "logit_scale" in moved
    save_tuned(tuned, tmp_path)
    for mine, saved in zip(features(load_tuned(tmp_path, plain)), features(tuned), strict=True):
        torch.testing.assert_close(mine, saved, rtol=1e-4, atol=1e-5)


def test_numbers_of_the_official_models() -> None:
    with torch.device("meta"):
        vit, resnet = (Backbone(ARCHITECTURES[name], name) for name in ("ViT-B/32", "RN50"))
    counts = {chosen: count_parameters(make_tunable(vit, FineTuning(unfreeze=chosen))) for chosen in ("all", 12)}  # type: ignore[arg-type]
    assert counts["all"] == (151_277_313, 151_277_313)
    assert counts[12] == (123_540_993, 151_277_313)  # type: ignore[index]
    assert count_parameters(make_tunable(resnet, FineTuning(unfreeze=(16, 12))))[0] < 102_007_137
    wrong = r"0 to 12 layers of the text tower to unfreeze, got 16; .* image first, such as 16,12; or all$"
    with pytest.raises(cf.UsageError, match=wrong):
        make_tunable(resnet, FineTuning(unfreeze=16))


@pytest.mark.parametrize(("unfreeze", "lock"), [((2, 1), "none"), (("all", 0), "none"), ((1, "all"), "image")])
def test_each_tower_has_a_depth_of_its_own(unfreeze: tuple[Depth, Depth], lock: str) -> None:
    plain = build_backbone(TINY)
    plan = FineTuning(unfreeze=unfreeze, lock=lock)  # type: ignore[arg-type]
    trained = {name for name, p in make_tunable(plain, plan).named_parameters() if p.requires_grad}
    wanted = {"logit_scale"}
    for prefix, tower, depth in (("visual", plain.visual, unfreeze[0]), ("text", plain.text, unfreeze[1])):
        names = [name for name, _ in tower.named_parameters()] if depth == "all" else tower.last_parameters(depth)
        wanted |= set() if prefix == "visual" and lock == "image" else {f"{prefix}.base.{name}" for name in names}
    # What is locked is held as it is, without a place for a head.
    assert trained == wanted
    two = make_tunable(plain, FineTuning(unfreeze=2))
    same = make_tunable(plain, FineTuning(unfreeze=(2, 2)))
    pairs = zip(two.named_parameters(), same.named_parameters(), strict=True)
    assert all(a[0] == b[0] and a[1].requires_grad == b[1].requires_grad for a, b in pairs)


def test_a_whole_pair_of_encoders_trains(tmp_path: Path) -> None:
    plain = pair()
    tuned = make_tunable(plain, FineTuning(unfreeze="all"))
    assert all(p.requires_grad for p in tuned.parameters())
    save_tuned(tuned, tmp_path)
    again = load_tuned(tmp_path, plain)
    assert all(torch.equal(a, b) for a, b in zip(features(again), features(tuned), strict=True))


def test_a_head_that_no_projection_can_take_in_is_refused_before_training() -> None:
    plain = pair().trunks()
    with pytest.raises(cf.UsageError, match=r"ends in a linear projection.*`head` none"):
        make_tunable(plain, FineTuning(unfreeze=0, head="linear"))
    assert make_tunable(pair(), FineTuning(unfreeze=0, head="linear"))


def test_batch_statistics_stay() -> None:
    plan = FineTuning(unfreeze=2)
    tuned = make_tunable(build_backbone(RESNET), plan)
    before = {name: tensor.clone() for name, tensor in tuned.named_buffers()}
    images, tokens = inputs(tuned)
    cf.train_contrastive(tuned, [PairBatch(images, tokens)], plan.options(steps=1))
    assert before
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.named_buffers())


def test_captions_are_anew_in_each_epoch_and_classes_share_targets(digits: cf.ImageDataset, tiny: cf.Backbone) -> None:
    some = digits.subset(range(40))  # type: ignore[arg-type]
    stream = CaptionedStream(some, tiny, batch=10, seed=3)
    assert stream.steps() == 4
    first, second = stream.captions(0), stream.captions(1)
    assert first == stream.captions(0)
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 4
    names = some.label_space.decode(some.required_labels())
    assert all(f" {name} " in caption for name, caption in zip(names, first, strict=True))
    whole = list(stream.batches(0))
    seen = torch.cat([batch.caption_ids for batch in whole if batch.caption_ids is not None])
    assert sorted(seen.tolist()) == sorted(some.required_labels().tolist())
    late = next(iter(stream.batches(0, 3)))
    halves = [next(iter(CaptionedStream(some, tiny, batch=10, seed=3, rank=r, world=2).batches(0, 3))) for r in (0, 1)]
    for field in ("images", "tokens", "caption_ids"):
        assert torch.equal(getattr(late, field), getattr(whole[3], field))
        assert torch.equal(torch.cat([getattr(half, field) for half in halves]), getattr(late, field))


@pytest.mark.parametrize(
    "wrong",
    [
        {"unfreeze": -1},
        {"unfreeze": (1, -1)},
        {"unfreeze": (0, 0)},
        {"unfreeze": (2, 0), "lock": "image"},
        {"prompts": 2, "unfreeze": (0, "all")},
        {"unfreeze": 0},
        {"head_lr": 0.0},
        {"prompts": 2},
        {"prompts": 2, "unfreeze": 0, "lock": "image"},
    ],
)
def test_plans_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(cf.UsageError):
        replace(FineTuning(), **wrong)  # type: ignore[arg-type]
