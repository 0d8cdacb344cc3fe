"""Attention heads of towers: they begin as nothing, read all tokens of an input and no other, and come back whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.contrastive.finetuning import FineTuning, make_tunable, merge_heads
from clip_fewshot.contrastive.tuned_files import load_tuned, save_tuned
from clip_fewshot.data.pairs.batch import PairBatch
from tests.backbones.encoders import pair
from tests.conftest import TINY
from tests.contrastive.test_finetuning import RESNET, disturb_heads, features, inputs

PLAN = FineTuning(unfreeze=1, head="attention", backbone_lr=1e-3, head_lr=1e-2)


@pytest.fixture(params=["vit", "resnet", "pair"])
def plain(request: pytest.FixtureRequest) -> cf.Backbone:
    made: cf.Backbone = (
        pair() if request.param == "pair" else build_backbone(TINY if request.param == "vit" else RESNET)
    )
    return made


def test_training_begins_at_the_zero_shot_model(plain: cf.Backbone) -> None:
    tuned = make_tunable(plain, PLAN)
    for mine, base in zip(features(tuned), features(plain), strict=True):
        torch.testing.assert_close(mine, base, rtol=1e-5, atol=1e-6)
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    for side in ("visual", "text"):
        last = {f"{side}.base.{name}" for name in getattr(plain, side).last_parameters(1)}
        assert {name for name in trained if name.startswith(f"{side}.base.")} == last
        assert f"{side}.head.query" in trained


def test_the_features_are_the_sum_of_both_paths_by_hand(plain: cf.Backbone) -> None:
    tuned = make_tunable(plain, PLAN)
    disturb_heads(tuned)
    images, tokens = inputs(plain)
    with torch.no_grad():
        state = plain.visual.advance(plain.visual.embed(images), 0, plain.visual.n_blocks)
        expected = plain.encode_image(images) + tuned.visual.head(plain.visual.tail().tokens(state))  # type: ignore[operator]
        torch.testing.assert_close(tuned.encode_image(images), expected, rtol=1e-4, atol=1e-5)
        for row in range(len(tokens)):  # each text alone, cut behind its end: nothing is hidden that belongs to it
            alone = plain.trim(tokens[row : row + 1])
            state = plain.text.advance(plain.text.embed(alone), 0, plain.text.n_blocks)
            read = tuned.text.head(plain.text.tail().tokens(state))  # type: ignore[operator]
            together = tuned.encode_text(tokens)[row : row + 1]
            torch.testing.assert_close(together, plain.encode_text(alone) + read, rtol=1e-4, atol=1e-5)


def test_padding_would_be_read_if_it_were_not_hidden(plain: cf.Backbone) -> None:
    tuned = make_tunable(plain, PLAN)
    disturb_heads(tuned)
    _, tokens = inputs(plain)
    tail = tuned.text.tail()
    with torch.no_grad():
        state = plain.text.advance(plain.text.embed(plain.trim(tokens)), 0, plain.text.n_blocks)
        hidden = tail(state)
        tail.texts = False  # type: ignore[assignment]
        assert not torch.allclose(hidden[0], tail(state)[0], rtol=1e-3)  # the shortest text has the most behind it
        torch.testing.assert_close(hidden[2], tail(state)[2])  # the longest has nothing


def test_a_cut_before_the_last_layers_gives_the_same(plain: cf.Backbone) -> None:
    tuned = make_tunable(plain, PLAN)
    disturb_heads(tuned)
    images, _ = inputs(plain)
    tower = tuned.eval().visual
    with torch.no_grad():
        for n in range(tower.n_blocks + 1):
            state = tower.cut(tower.advance(tower.embed(images), 0, tower.n_blocks - n), n)
            torch.testing.assert_close(tower.suffix(n)(state), tower(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lock", ["none", "text"])
def test_what_was_trained_comes_back_beside_the_model_it_was_trained_on(
    plain: cf.Backbone, lock: str, tmp_path: Path
) -> None:
    plan = FineTuning(unfreeze=1, head="attention", lock=lock, backbone_lr=1e-3, head_lr=1e-2)  # type: ignore[arg-type]
    tuned = make_tunable(plain, plan)
    cf.train_contrastive(tuned, [PairBatch(*inputs(plain))], plan.options(steps=2))
    save_tuned(tuned, tmp_path)
    again = load_tuned(tmp_path, plain)
    assert again.digest == tuned.digest != plain.digest
    for mine, saved in zip(features(again), features(tuned), strict=True):
        assert torch.equal(mine, saved)
    assert not torch.equal(features(again)[0], features(plain)[0])
    assert torch.equal(features(again)[1], features(plain)[1]) == (lock == "text")
    with pytest.raises(cf.UsageError, match="a linear head"):
        merge_heads(tuned)
    with torch.no_grad():
        plain.logit_scale += 1
    with pytest.raises(cf.ArtifactError, match="trained on"):
        load_tuned(tmp_path, plain)


def test_the_head_learns(tiny: cf.Backbone) -> None:
    plan = FineTuning(unfreeze=0, head="attention", head_lr=3e-3)
    tuned, losses = make_tunable(tiny, plan), []
    cf.train_contrastive(
        tuned, [PairBatch(*inputs(tiny))] * 30, plan.options(steps=30), on_step=lambda r: losses.append(r.loss)
    )
    assert losses[-1] < losses[0] - 0.5
