"""A training on stored states is the training on pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive.finetuning import FineTuning, make_tunable
from clip_fewshot.contrastive.replayed import count_replayed_blocks, replay_pictures
from clip_fewshot.data.pairs.captioned import CaptionedStream
from clip_fewshot.data.pairs.stream import PairStream
from tests.backbones.encoders import pair
from tests.conftest import TINY
from tests.contrastive.test_finetuning import RESNET


def model(kind: str) -> cf.Backbone:
    made: cf.Backbone = pair() if kind == "pair" else build_backbone(TINY if kind == "vit" else RESNET)
    return made


@pytest.mark.parametrize("kind", ["vit", "resnet", "pair"])
@pytest.mark.parametrize(
    ("plan", "blocks"),
    [
        (FineTuning(unfreeze=1), 1),
        (FineTuning(unfreeze=0, head="linear"), 0),
        (FineTuning(unfreeze=0, head="attention"), 1),
        (FineTuning(unfreeze=2, head="attention", lock="image"), 0),
    ],
)
def test_the_weights_are_those_of_a_training_on_pixels(
    kind: str, plan: FineTuning, blocks: int, digits: cf.ImageDataset
) -> None:
    pretrained, data = model(kind), digits.subset(range(24))  # type: ignore[arg-type]
    plan, ends = replace(plan, backbone_lr=1e-4, head_lr=1e-3), []
    n = count_replayed_blocks(plan, pretrained.visual)
    one_row = kind == "vit" and plan.head == "attention" and plan.lock == "none"
    assert n == blocks + one_row
    for numbered in (False, True):
        tuned = make_tunable(pretrained, plan)
        pairs = CaptionedStream(data, tuned, batch=8, seed=0, numbered=numbered)
        passed: list[int] = []
        hook = tuned.visual.blocks[0].register_forward_pre_hook(lambda *_, passed=passed: passed.append(1))
        options = plan.options(epochs=2, weight_decay=0.0, eps=1e-3)  # rounding must not decide a step's direction
        if numbered:
            with replay_pictures(tuned, pretrained, pairs.pictures, n):
                cf.train_contrastive(tuned, pairs, options)
            assert not passed  # the first block belongs to what is stored
        else:
            cf.train_contrastive(tuned, pairs, options)
            assert len(passed) == 6
        hook.remove()
        ends.append(tuned)
    assert "forward" not in vars(ends[1].visual)
    start = dict(make_tunable(pretrained, plan).named_parameters())
    by_pixels, by_states = (dict(end.named_parameters()) for end in ends)
    moved = 0.0
    for name, parameter in by_pixels.items():
        step = float((parameter - start[name]).detach().norm())
        moved += step
        assert float((parameter - by_states[name]).detach().norm()) <= 1e-4 * step + 1e-7, name
    assert moved > 1e-3


def test_where_nothing_is_frozen_nothing_is_stored(tiny: cf.Backbone) -> None:
    assert count_replayed_blocks(FineTuning(unfreeze=3), tiny.visual) is None
    assert count_replayed_blocks(FineTuning(unfreeze="all"), tiny.visual) is None
    assert count_replayed_blocks(FineTuning(unfreeze="all", head="attention"), tiny.visual) is None
    assert count_replayed_blocks(FineTuning(unfreeze=(1, "all")), tiny.visual) == 1
    assert count_replayed_blocks(FineTuning(unfreeze=0, prompts=2), tiny.visual) is None
    assert count_replayed_blocks(FineTuning(unfreeze=3, lock="image"), tiny.visual) == 0


def test_numbers_name_each_picture_once(digits: cf.ImageDataset, tiny: cf.Backbone) -> None:
    data = digits.subset([0, 1, 2, 1, 3, 4])  # type: ignore[arg-type]
    plain, numbered = (
        CaptionedStream(data, tiny, batch=2, seed=0, numbered=on, shared="caption") for on in (False, True)
    )
    assert numbered.pictures.digests == tuple(dict.fromkeys(data.digests))
    for pixels, numbers in zip(plain.batches(1), numbered.batches(1), strict=True):
        shown = torch.stack([tiny.preprocess(numbered.pictures.open(int(i))) for i in numbers.images])
        torch.testing.assert_close(pixels.images, shown)
        assert torch.equal(pixels.tokens, numbers.tokens)
    assert len(list(numbered.batches(1, 1))) == numbered.steps() - 1
    captioned = replace(data, captions=tuple(map(str, range(6))))
    with pytest.raises(cf.UsageError, match="numbered"):
        PairStream(captioned, tiny, batch=2, seed=0, augment=0.5, numbered=True)
