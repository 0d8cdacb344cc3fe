"""Neighbour distances against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.estimator_checks import check_estimator

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import KNNDetector


def draw(seed: int, n: int = 40, d: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + 1


def unit(X: np.ndarray) -> np.ndarray:
    return X / np.linalg.norm(X, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_equals_scikit_learn(k: int) -> None:
    X, new = draw(0), draw(1, n=15)
    far = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit(X)).kneighbors(unit(new))[0]
    assert np.allclose(KNNDetector(k).fit(X).score_samples(new), -far.mean(axis=1), rtol=1e-9)
    assert np.allclose(KNNDetector(k, mean=False).fit(X).score_samples(new), -far[:, -1], rtol=1e-9)


@pytest.mark.parametrize("mean", [True, False])
def test_leave_one_out_equals_refits(mean: bool) -> None:
    X = draw(2, n=25)
    detector = KNNDetector(4, mean).fit(X)
    for i in range(len(X)):
        without = KNNDetector(4, mean).fit(np.delete(X, i, axis=0))
        assert without.score_samples(X[[i]])[0] == pytest.approx(detector.loo_scores_[i], rel=1e-12)


def test_neighbours_stay_within_the_smallest_class_and_the_rows() -> None:
    X = draw(3, n=30)
    assert KNNDetector(20).fit(X, np.repeat([0, 1, 2], [16, 8, 6])).n_neighbors_ == 5
    assert KNNDetector(20).fit(X, np.arange(30)).n_neighbors_ == 1
    assert KNNDetector(20).fit(X[:6]).n_neighbors_ == 4
    with pytest.raises(UsageError, match=r"2 distinct rows or more, got 1 "):
        KNNDetector().fit(np.ones((9, 4)))
    with pytest.raises(UsageError, match="n_neighbors >= 1, got 0"):
        KNNDetector(0).fit(X)


@pytest.mark.slow  # by default once a base class, in test_lof.py
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_passes_scikit_learns_own_checks() -> None:
    results = check_estimator(KNNDetector(), on_fail=None)
    assert not [(r["check_name"], r["exception"]) for r in results if r["status"] not in ("passed", "skipped")]
