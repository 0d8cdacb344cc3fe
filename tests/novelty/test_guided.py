"""ViM and NNGuide against the formulas of their papers on scikit-learn's logistic regression, and against refits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from clip_fewshot.novelty import NNGuideDetector, ViMDetector
from clip_fewshot.novelty.probe_scores import GuidedDetector
from tests.novelty.test_probe_scores import draw, unit


def logits_of(X: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    probe = LogisticRegression(C=5.0, tol=1e-10, max_iter=10_000).fit(X, y)
    if len(probe.classes_) == 2:
        return lambda rows: np.outer(probe.decision_function(rows), [-0.5, 0.5])
    return lambda rows: probe.decision_function(rows) - probe.intercept_.mean()


def slow_vim(X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    logits = logits_of(X, y)
    space = PCA(len(np.unique(y)) - 1).fit(X)

    def residual(rows: np.ndarray) -> np.ndarray:
        return np.linalg.norm(rows - space.inverse_transform(space.transform(rows)), axis=1)

    scale = logits(X).max(axis=1).mean() / residual(X).mean()
    return logsumexp(logits(new), axis=1) - scale * residual(new)


def slow_nnguide(X: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    logits = logits_of(X, y)
    found = []
    for row in new:
        likeness = sorted((row @ x * np.log(np.exp(z).sum()) for x, z in zip(X, logits(X), strict=True)), reverse=True)
        found.append(np.log(np.exp(logits(row[None])[0]).sum()) * np.mean(likeness[:10]))
    return np.array(found)


SLOW = pytest.mark.parametrize(("kind", "slow"), [(ViMDetector, slow_vim), (NNGuideDetector, slow_nnguide)])


@SLOW
@pytest.mark.parametrize("sizes", [(7, 6), (8, 5, 7)])
def test_equals_the_formula(
    kind: type[GuidedDetector], slow: Callable[..., np.ndarray], sizes: tuple[int, ...]
) -> None:
    (X, y), new = draw(0, sizes), draw(1, sizes)[0]
    found = kind(C=5.0).fit(X, y).score_samples(new)
    assert np.allclose(found, slow(unit(X), y, unit(new)), atol=2e-3 * np.ptp(found))


@SLOW
@pytest.mark.parametrize("sizes", [(6, 5), (5, 4, 3, 1)])
def test_leave_one_out_equals_refits(
    kind: type[GuidedDetector], slow: Callable[..., np.ndarray], sizes: tuple[int, ...]
) -> None:
    """Also of the only image of a class, with which the class goes; in the space of the rows, which are fewer here."""
    X, y = draw(2, sizes, 30)
    found = kind(C=5.0).fit(X, y).loo_scores_
    refits = [slow(unit(np.delete(X, i, 0)), np.delete(y, i), unit(X[[i]]))[0] for i in range(len(X))]
    assert np.allclose(found, refits, atol=4e-3 * np.ptp(found))
