"""One loop for four approaches: what it changes, what it must not, how it ends."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.errors import DivergedError, UsageError
from clip_fewshot.few_shot.approach import APPROACHES, Point, find_approach
from clip_fewshot.few_shot.model import prepare_support
from clip_fewshot.few_shot.trainer import SupportData, TrainSettings, Tuned, balanced_batches, tune
from clip_fewshot.optim.adamw import group_parameters
from clip_fewshot.optim.schedule import warmup_cosine_factor
from clip_fewshot.runtime import rng

QUICK = TrainSettings(epochs=2, min_steps=8)


@pytest.fixture(scope="module")
def data(tiny: Backbone, split: OpenWorldSplit) -> SupportData:
    return prepare_support(tiny, split.support, [0, 1, 2], views=1, seed=0)


def params(name: str, **changes: float) -> Point:
    return APPROACHES[name].at({"unfreeze": 1, "backbone_lr": 1e-3, **changes})


def train(backbone: Backbone, point: Point, data: SupportData, settings: TrainSettings, seed: int) -> Tuned:
    return tune(backbone, APPROACHES[point.approach], point, data, settings, seed)


@pytest.mark.parametrize("name", APPROACHES)
def test_training_lowers_the_loss_and_leaves_the_backbone_bit_identical(
    name: str, tiny: Backbone, data: SupportData
) -> None:
    before = {k: v.clone() for k, v in tiny.state_dict().items()}
    tuned = train(tiny, params(name), data, TrainSettings(epochs=30), seed=0)
    assert np.mean(tuned.losses[-5:]) < np.mean(tuned.losses[:5])
    assert all(torch.equal(before[k], v) for k, v in tiny.state_dict().items())
    moved = [
        not torch.equal(p, q)
        for p, q in zip(tuned.suffix.parameters(), tiny.visual.suffix(1).parameters(), strict=True)
    ]
    assert all(moved)


@pytest.mark.parametrize("name", APPROACHES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    name: str, tiny: Backbone, data: SupportData
) -> None:
    one, two, other = (train(tiny, params(name), data, QUICK, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(p, q) for p, q in zip(one.suffix.parameters(), two.suffix.parameters(), strict=True))
    assert one.losses == two.losses
    assert one.losses != other.losses


def test_the_global_generator_is_left_alone(tiny: Backbone, data: SupportData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    train(tiny, params("mlp"), data, QUICK, seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_no_unfrozen_layer_leaves_the_suffix_as_it_was(tiny: Backbone, data: SupportData) -> None:
    tuned = train(tiny, params("mlp", unfreeze=0), data, QUICK, seed=0)
    frozen = tiny.visual.suffix(0)
    assert all(torch.equal(p, q) for p, q in zip(tuned.suffix.parameters(), frozen.parameters(), strict=True))


def test_the_trained_model_ignores_labels(tiny: Backbone, data: SupportData) -> None:
    """The originals fed margin logits, which depend on the label, onward: validation then read the answer."""
    tuned = train(tiny, params("mlp-arcface"), data, QUICK, seed=0)
    features = torch.randn(6, tiny.visual.out_features)
    assert tuned.head is not None
    labels = torch.arange(6) % data.n_classes
    assert torch.allclose(tuned.head(features), tuned.head(features, labels), atol=1e-5)


@pytest.mark.parametrize("name", APPROACHES)
def test_a_field_that_the_approach_does_not_search_has_no_effect(name: str, tiny: Backbone, data: SupportData) -> None:
    """The classifier's default margin once reached the approach that has none, and made it the one that has."""
    others = {"margin": 0.45, "scale": 50.0}
    plain = train(tiny, params(name), data, QUICK, seed=0).losses
    for field in others:
        changed = train(tiny, params(name, **{field: others[field]}), data, QUICK, seed=0).losses
        assert (changed == plain) == (field not in APPROACHES[name].space), field


def test_a_training_that_diverges_says_where(tiny: Backbone, data: SupportData) -> None:
    with pytest.raises(DivergedError, match="of 8"):
        train(tiny, params("mlp", backbone_lr=1e38), data, QUICK, seed=0)


@pytest.mark.parametrize("lr", [1e-6, 1e-3, 10.0, 1e6])
@pytest.mark.parametrize("name", ["mlp-arcface", "contrastive"])
def test_any_learning_rate_ends_finite_or_as_diverged(name: str, lr: float, tiny: Backbone, data: SupportData) -> None:
    try:
        tuned = train(tiny, params(name, backbone_lr=lr, head_lr=lr), data, QUICK, seed=0)
    except DivergedError:
        return
    assert np.isfinite(tuned.losses).all()


def test_an_unknown_approach_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="contrastive-arcface"):
        find_approach("mpl")


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(1, 7), min_size=2, max_size=5),
    batch=st.integers(1, 12),
    views=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_classes_take_turns_however_many_pictures_they_have(
    counts: list[int], batch: int, views: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    drawn = list(balanced_batches(labels, views, batch, steps=6, seed=seed))
    items = np.concatenate([i.numpy() for i, _ in drawn])
    per_class = np.bincount(labels[items], minlength=len(counts))
    assert per_class.max() - per_class.min() <= 1
    for c in range(len(counts)):
        dealt = np.bincount(items[labels[items] == c], minlength=len(labels))[labels == c]
        assert dealt.max() - dealt.min() <= 1
    assert all(int(v.max()) < views for _, v in drawn)


def test_each_picture_shows_its_views_in_turn() -> None:
    drawn = list(balanced_batches(np.array([0, 1]), views=2, batch=2, steps=4, seed=0))
    for item in (0, 1):
        shown = [int(v[i == item]) for i, v in drawn]
        assert all(a != b for a, b in pairwise(shown))


def test_the_learning_rate_rises_then_falls_to_almost_nothing() -> None:
    factors = [warmup_cosine_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[-1] < 0.001
    assert all(a > b for a, b in pairwise(factors[10:]))


def test_only_matrices_decay() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    groups = group_parameters([(module, 1e-3)], weight_decay=0.1)
    decayed = [p.ndim for g in groups for p in g.parameters if g.weight_decay]
    kept = [p.ndim for g in groups for p in g.parameters if not g.weight_decay]
    assert decayed == [2]
    assert kept == [1, 1, 1]


@pytest.mark.parametrize(("counts", "batch"), [((4, 4, 4), 6), ((1, 5, 3), 4), ((2, 9), 32)])
def test_batches_are_those_of_the_slow_dealer(counts: tuple[int, ...], batch: int) -> None:
    """The plain way: turns and decks dealt picture by picture from one generator."""
    labels = np.repeat(np.arange(len(counts)), counts)
    draws = rng.generator(7, "batches")
    left: dict[int, list[int]] = {c: [] for c in range(len(counts))}
    turns: list[int] = []
    dealt = dict.fromkeys(range(len(labels)), 0)
    for items, views in balanced_batches(labels, 2, batch, 9, seed=7):
        assert len(items) == min(batch, len(labels))
        for item, view in zip(items.tolist(), views.tolist(), strict=True):
            turns = turns or draws.permutation(len(counts)).tolist()
            c = turns.pop(0)
            left[c] = left[c] or draws.permutation(np.flatnonzero(labels == c)).tolist()
            expected = left[c].pop(0)
            assert (item, view) == (expected, dealt[expected] % 2)
            dealt[expected] += 1


def test_large_sets_take_larger_batches_and_no_more_steps() -> None:
    settings = TrainSettings()
    assert [settings.batch_size(n) for n in (5, 1000, 1024, 2048, 100_000)] == [32, 32, 32, 64, 128]
    assert settings.steps(1600) == 20 * 32
