"""Twins: the closed forms against sums that are written out, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp, softmax

from clip_fewshot.evaluation.calibration import log_losses
from clip_fewshot.probes import twins
from clip_fewshot.probes.twins import USUAL_LIKENESS, measure_likeness, twin_logits
from clip_fewshot.types import FloatArray, LabelArray


def draw(shots: int, seed: int = 0, c: int = 4, d: int = 9) -> tuple[FloatArray, LabelArray]:
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(c), shots)
    return generator.normal(size=(c, d))[labels] + generator.normal(size=(len(labels), d)), labels


@pytest.mark.parametrize("shots", [2, 3, 6])
def test_likeness_is_what_pairs_say_drawn_to_the_usual(shots: int) -> None:
    rows, labels = draw(shots)
    apart = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    same = labels[:, None] == labels[None]
    pairs = same & ~np.eye(len(rows), dtype=bool)
    measured = 1 - apart[pairs].mean() / apart[~same].mean()
    assert 0 < measured < 0.9
    n = pairs.sum() / 2
    expected = (n * measured + 6 * USUAL_LIKENESS) / (n + 6)
    assert measure_likeness(rows, labels) == pytest.approx(expected, rel=1e-9)


def test_without_pairs_likeness_is_the_usual() -> None:
    rows, labels = draw(1)
    assert measure_likeness(rows, labels) == USUAL_LIKENESS


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_a_twin_s_logits_are_sums_over_the_rows_with_its_own_row_shrunk(
    shots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "NOISE_DIRECTIONS", np.inf)  # the noise has a test of its own
    rows, labels = draw(shots)
    rows -= rows.mean(axis=0)
    n, c, C, likeness = len(rows), 4, 3.0, 0.3
    prior = np.random.default_rng(1).normal(size=(n, c))
    logits = np.zeros((n, c))
    for _ in range(3000):  # weights that meet their own equation, W = sum_i a_i x_i
        dual = C * (np.eye(c)[labels] - softmax(logits, axis=1))
        logits += 0.05 * (prior + rows @ (dual.T @ rows).T - logits)
    weights = dual.T @ rows
    share = 1 - (1 - likeness) ** max(1.0, 2 * (shots - 1) / shots)
    kernel = rows @ rows.T
    expected = np.empty((n, c))
    for i in range(n):
        lacking = (1 - share) * kernel[i, i]
        twin = prior[i].copy()
        for j in range(n):
            twin += dual[j] * (kernel[i, j] - lacking if i == j else kernel[i, j] + lacking / (n - 1))
        expected[i] = twin
    found = twin_logits(prior + rows @ weights.T, weights, rows, labels, C, likeness)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_noise_is_bounded_as_jensen_says() -> None:
    rows, labels = draw(1)
    rows -= rows.mean(axis=0)
    weights = np.random.default_rng(2).normal(size=(4, rows.shape[1]))
    logits = rows @ weights.T
    share = USUAL_LIKENESS
    variance = (1 - share) * (rows**2).sum(axis=1).mean() / (5 * len(rows) * (len(rows) - 1) / 2)
    noise = np.sqrt(variance) * np.random.default_rng(3).normal(size=(20_000, rows.shape[1]))
    quiet = log_losses(twin_logits(logits, 0 * weights, rows, labels, 0.0, share), labels)
    noisy = log_losses(twin_logits(logits, weights, rows, labels, 0.0, share), labels)
    for i, label in enumerate(labels):
        drawn = logits[i] + noise @ weights.T
        mean = float(np.mean(logsumexp(drawn, axis=1) - drawn[:, label]))
        assert quiet[i] < mean < noisy[i]


def test_a_twin_is_harder_than_the_row_itself() -> None:
    rows, labels = draw(3)
    rows -= rows.mean(axis=0)
    weights = np.eye(4)[labels].T @ rows
    logits = rows @ weights.T
    own = logsumexp(logits, axis=1) - logits[np.arange(len(rows)), labels]
    assert (log_losses(twin_logits(logits, weights, rows, labels, 1.0, 0.2), labels) > own).mean() > 0.9
