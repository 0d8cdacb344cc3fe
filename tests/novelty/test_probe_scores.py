"""Scores of logits against scikit-learn's logistic regression, in float64 and to the letter of the formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import EnergyDetector, MaxLogitDetector, MaxSoftmaxDetector, probe_scores
from clip_fewshot.novelty.probe_scores import ProbeDetector

FORMULAS: dict[type[ProbeDetector], Callable[[np.ndarray], float]] = {
    MaxSoftmaxDetector: lambda z: float(logit(max(np.exp(z) / np.exp(z).sum()))),
    MaxLogitDetector: lambda z: float(max(z)),
    EnergyDetector: lambda z: float(np.log(np.exp(z).sum())),
}
KINDS = pytest.mark.parametrize("kind", FORMULAS)


def draw(seed: int, sizes: tuple[int, ...], d: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)), sizes)
    return 1 + np.random.default_rng(99).normal(size=(9, d))[y] + 0.5 * rng.normal(size=(len(y), d)), y


def unit(X: np.ndarray) -> np.ndarray:
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def slow(kind: type[ProbeDetector], C: float, X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    probe = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(unit(X), y)
    logits = probe.decision_function(unit(new))
    if logits.ndim == 1:
        logits = np.stack([-logits / 2, logits / 2], axis=1)
    logits = logits - (probe.intercept_.mean() if logits.shape[1] > 2 else 0)
    return np.array([FORMULAS[kind](z) for z in logits])


@KINDS
@pytest.mark.parametrize("sizes", [(6, 6), (8, 5, 7)])
def test_equals_scikit_learns_logistic_regression(kind: type[ProbeDetector], sizes: tuple[int, ...]) -> None:
    (X, y), new = draw(0, sizes), draw(1, sizes)[0]
    found, slowly = kind(C=5.0).fit(X, y).score_samples(new), slow(kind, 5.0, X, y, new)
    assert np.allclose(found, slowly, atol=2e-3 * (1 + kind.in_log_odds))  # a log-odds is a difference of logits


@KINDS
@pytest.mark.parametrize("sizes", [(5, 5), (5, 4, 3, 1), (4, 1, 1), (1, 1, 1)])
def test_leave_one_out_equals_refits(kind: type[ProbeDetector], sizes: tuple[int, ...]) -> None:
    """Also of the only image of a class, with which the class goes, down to two."""
    X, y = draw(2, sizes)
    detector = kind(C=5.0).fit(X, y)
    refits = [slow(kind, 5.0, np.delete(X, i, axis=0), np.delete(y, i), X[[i]])[0] for i in range(len(X))]
    assert np.allclose(detector.loo_scores_, refits, atol=4e-3 * (1 + kind.in_log_odds))


@KINDS
def test_many_rows_are_left_out_in_parts(kind: type[ProbeDetector], monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = draw(3, (30, 30, 30))
    alone = kind().fit(X, y).loo_scores_
    monkeypatch.setattr(probe_scores, "PROBE_REFITS", 89)
    parts = kind().fit(X, y).loo_scores_
    assert np.isfinite(parts).all()
    assert np.corrcoef(alone, parts)[0, 1] > 0.95


@KINDS
def test_one_class_is_refused_also_once_a_row_is_left_out(kind: type[ProbeDetector]) -> None:
    X, _ = draw(4, (5, 5))
    for y in ([0] * 10, [0] * 9 + [1]):
        with pytest.raises(UsageError, match="2 classes or more whichever image is left out"):
            kind().fit(X, np.array(y))
