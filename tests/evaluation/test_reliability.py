"""Log loss, Brier score and calibration error: scikit-learn's, slow twins in words, and laws of what is unbiased."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from clip_fewshot.evaluation import metrics
from clip_fewshot.evaluation.reliability import (
    measure_brier,
    measure_gaps,
    measure_losses,
    measure_reliability,
    score_probabilities,
)
from clip_fewshot.types import FloatArray, LabelArray

SEEDS = st.integers(0, 10**6)


def promised(n: int, seed: int, sharper: float = 1.0, c: int = 4) -> tuple[LabelArray, FloatArray]:
    """Labels drawn from probabilities, and these raised to a power: right at 1, too sure above."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(c), n)
    labels = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    said = p**sharper
    return labels, said / said.sum(axis=1, keepdims=True)


@given(SEEDS)
def test_loss_and_brier_equal_their_definitions(seed: int) -> None:
    labels, p = promised(40, seed)
    assert np.isclose(measure_losses(labels, p).mean(), log_loss(labels, p, labels=range(4)))
    slow = [sum((p[i, j] - (labels[i] == j)) ** 2 for j in range(4)) for i in range(40)]
    assert np.allclose(measure_brier(labels, p), slow, atol=1e-12)


def test_a_certain_and_wrong_prediction_costs_much_but_not_infinity() -> None:
    assert 700 < measure_losses([1], [[1.0, 0.0]])[0] < 710
    assert measure_brier([1], [[1.0, 0.0]])[0] == 2


@given(SEEDS, st.sampled_from([1, 3, 6]))
def test_the_error_equals_a_loop_over_bins(seed: int, n_bins: int) -> None:
    labels, p = promised(60, seed)
    bins = measure_reliability(labels, p, n_bins)
    gaps, total = (p.argmax(axis=1) == labels) - p.max(axis=1), 0.0
    for rows in np.split(np.argsort(p.max(axis=1)), np.cumsum(bins.size)[:-1]):
        gap = gaps[rows]
        total += len(rows) * (gap.mean() ** 2 - gap.var() / (len(rows) - 1))
    assert np.isclose(measure_gaps(labels, p, n_bins).mean(), total / 60, atol=1e-12)
    assert abs(bins.size - 60 / n_bins).max() <= 1


def test_right_probabilities_have_no_error_where_the_usual_figure_has_one() -> None:
    drawn = [promised(300, seed) for seed in range(200)]
    errors = np.array([measure_gaps(*pair).mean() for pair in drawn])
    assert abs(errors.mean()) < 3 * errors.std() / 200**0.5 < 0.001
    assert np.mean([metrics.expected_calibration_error(*pair) for pair in drawn]) > 0.05


def test_the_interval_holds_the_error_of_probabilities_that_are_too_sure() -> None:
    labels, p = promised(200_000, 0, sharper=2.0)
    truth = measure_gaps(labels, p).mean() ** 0.5
    drawn = [promised(300, seed, sharper=2.0) for seed in range(1, 201)]
    found = [score_probabilities(labels, [p]) for labels, p in drawn]
    held = np.mean([scores.ece.ci95[0] <= truth <= scores.ece.ci95[1] for scores in found])
    assert 0.9 < held < 0.99
    assert truth == pytest.approx(np.mean([scores.ece.mean for scores in found]), abs=0.01)


def test_figures_over_support_sets_are_their_means_and_an_interval_never_leaves_its_range() -> None:
    labels, p = promised(80, 0)
    sharp = promised(80, 0, sharper=3.0)[1]
    scores = score_probabilities(labels, [p, sharp])
    assert scores.nll.per_seed == pytest.approx([measure_losses(labels, q).mean() for q in (p, sharp)])
    assert scores.nll.mean == pytest.approx(np.mean(scores.nll.per_seed))
    assert scores.accuracy.mean == pytest.approx(metrics.accuracy(labels, p.argmax(axis=1)))
    for result in scores:
        assert 0 <= result.ci95[0] <= result.mean <= result.ci95[1]
    sure = score_probabilities([0, 1, 1], [np.eye(2)[[0, 1, 1]]])
    assert (sure.nll.mean, sure.brier.mean, sure.ece.mean) == (0, 0, 0)


def test_equal_confidences_share_a_bin_so_that_the_order_of_rows_is_nothing() -> None:
    labels, p = promised(200, 1)
    p = np.round(p, 1) / np.round(p, 1).sum(axis=1, keepdims=True)
    order = np.random.default_rng(2).permutation(200)
    assert measure_gaps(labels, p).mean() == pytest.approx(measure_gaps(labels[order], p[order]).mean(), abs=1e-12)
