"""Sets of classes against ranks by hand, against one threshold, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_fewshot.conformal.prediction_sets import class_p_values, measure_losses, prediction_sets
from clip_fewshot.errors import UsageError

LOSSES = st.lists(st.integers(0, 6).map(float), min_size=2, max_size=15)
DRAWS = 4000


@settings(max_examples=80, deadline=None)
@given(LOSSES, LOSSES, st.integers(0, 9))
def test_a_class_is_ranked_among_the_known_pictures_or_among_its_own(
    known: list[float], new: list[float], seed: int
) -> None:
    table = np.array([new, new[::-1]]).T
    labels = np.random.default_rng(seed).integers(0, 2, len(known))
    pooled = [[(1 + sum(k >= loss for k in known)) / (1 + len(known)) for loss in row] for row in table]
    assert np.allclose(class_p_values(np.array(known), table), pooled)
    own = [np.array(known)[labels == c] for c in range(2)]
    within = [[(1 + (own[c] >= loss).sum()) / (1 + len(own[c])) for c, loss in enumerate(row)] for row in table]
    assert np.allclose(class_p_values(np.array(known), table, labels), within)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.25])
def test_a_set_is_all_classes_above_one_probability(alpha: float) -> None:
    """The threshold of split conformal: the ceil((n + 1) (1 - alpha))-th smallest loss."""
    rng = np.random.default_rng(0)
    known, p = rng.exponential(size=57), rng.dirichlet(np.ones(4), 200)
    threshold = np.sort(known)[math.ceil(58 * (1 - alpha)) - 1]
    sets = prediction_sets(class_p_values(known, measure_losses(p)), alpha)
    assert (sets == (p >= np.exp(-threshold))).all()


@pytest.mark.parametrize("within", [False, True])
def test_sets_hold_the_class_as_often_as_promised_and_hardly_more(within: bool) -> None:
    """Exchangeable losses, 30 known pictures of each of two classes, one of which is harder; bounds of 4.9 errors."""
    rng, alpha, labels = np.random.default_rng(1), 0.1, np.repeat([0, 1], 30)
    held = np.empty((DRAWS, 2), dtype=bool)
    for i in range(DRAWS):
        known, new = rng.exponential(1.0 + labels), rng.exponential(1.0 + np.arange(2))
        p = class_p_values(known, np.tile(new, (1, 1)), labels if within else None)
        held[i] = prediction_sets(p, alpha)[0]
    error = 4.9 * math.sqrt(alpha * (1 - alpha) / DRAWS)
    if within:  # 28 of 31 in each class
        assert np.allclose(held.mean(axis=0), 28 / 31, atol=error)
    else:  # 55 of 61 over both, and not in the harder one
        assert held.mean() == pytest.approx(55 / 61, abs=error)
        assert held[:, 1].mean() < 1 - alpha - error


def test_fewer_pictures_than_alpha_takes_rule_nothing_out() -> None:
    p = class_p_values(np.zeros(8), np.full((3, 4), 5.0))
    assert prediction_sets(p, 0.1).all()
    assert not prediction_sets(p, 0.12).any()
    assert class_p_values(np.empty(0), np.ones((2, 3))).tolist() == [[1.0] * 3] * 2


def test_what_is_next_to_impossible_has_a_finite_loss() -> None:
    assert measure_losses(np.array([1.0, 0.0])).tolist() == [0.0, pytest.approx(690.8, abs=0.1)]
    assert np.isnan(measure_losses(np.array([np.nan]))).all()


@pytest.mark.parametrize("alpha", [0.0, 1.0, float("nan"), True, "half"])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha"):
        prediction_sets(np.ones((1, 2)), alpha)


def test_losses_and_labels_have_their_shapes() -> None:
    with pytest.raises(UsageError, match="3 labels"):
        class_p_values(np.zeros(3), np.ones((1, 2)), np.array([0, 1]))
    with pytest.raises(UsageError, match="losses"):
        class_p_values(np.zeros(3), np.ones(2))
    with pytest.raises(UsageError, match="known"):
        class_p_values(np.array([np.nan]), np.ones((1, 2)))


def test_a_class_at_alpha_is_ruled_out_however_binary_fractions_round() -> None:
    assert not prediction_sets(np.array([[0.3, 0.1 * 3]]), 0.3).any()
    assert not prediction_sets(np.array([[0.3, 0.1 * 3]]), 0.1 * 3).any()
    assert prediction_sets(np.array([[0.31]]), 0.3).all()
