"""Mahalanobis against scikit-learn's covariances, against dense inverses, and against refits without each row."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import helmert
from sklearn.covariance import OAS
from sklearn.utils.estimator_checks import check_estimator

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import (
    MahalanobisDetector,
    MahalanobisMarginDetector,
    RelativeMahalanobisDetector,
    mahalanobis,
)

SIZES = [9, 5, 3, 1]


def draw(seed: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(SIZES)), SIZES)
    scales = np.linspace(0.1, 1, d)
    return 1 + rng.normal(size=(len(SIZES), d))[y] + scales * rng.normal(size=(len(y), d)), y


def unit(X: np.ndarray) -> np.ndarray:
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def contrasts(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n - c, d) rows of mean 0 with the scatter of the classes around their means, by Helmert's contrasts."""
    return np.concatenate([helmert(np.sum(y == c)) @ X[y == c] for c in np.unique(y) if np.sum(y == c) > 1])


def slow_squared(X: np.ndarray, y: np.ndarray, new: np.ndarray, shrinkage: float | None) -> np.ndarray:
    """(m, c) squared distances: dense covariance, dense inverse, one image at a time."""
    rows = contrasts(unit(X), y)
    if shrinkage is None:
        covariance = OAS(assume_centered=True).fit(rows).covariance_
    else:
        plain = rows.T @ rows / len(rows)
        covariance = (1 - shrinkage) * plain + shrinkage * np.trace(plain) / X.shape[1] * np.eye(X.shape[1])
    inverse = np.linalg.inv(covariance)
    means = [unit(X)[y == c].mean(axis=0) for c in np.unique(y)]
    return np.array([[(q - m) @ inverse @ (q - m) for m in means] for q in unit(new)])


def slow(X: np.ndarray, y: np.ndarray, new: np.ndarray, shrinkage: float | None) -> np.ndarray:
    return -slow_squared(X, y, new, shrinkage).min(axis=1)


def estimated(X: np.ndarray, y: np.ndarray) -> float:
    return float(OAS(assume_centered=True).fit(contrasts(unit(X), y)).shrinkage_)


@pytest.mark.parametrize("d", [1 + 3, 12, 40])
@pytest.mark.parametrize("shrinkage", [None, 0.05, 0.5, 1.0])
def test_equals_the_dense_inverse_of_scikit_learns_covariance(d: int, shrinkage: float | None) -> None:
    (X, y), new = draw(0, d), draw(1, d)[0]
    assert np.allclose(MahalanobisDetector(shrinkage).fit(X, y).score_samples(new), slow(X, y, new, shrinkage))
    one = np.zeros(len(X), dtype=int)
    assert np.allclose(MahalanobisDetector(shrinkage).fit(X).score_samples(new), slow(X, one, new, shrinkage))


@pytest.mark.parametrize("d", [4, 12, 40])
@pytest.mark.parametrize("shrinkage", [None, 0.05])
@pytest.mark.parametrize("kind", [MahalanobisDetector, MahalanobisMarginDetector, RelativeMahalanobisDetector])
def test_leave_one_out_equals_refits(
    kind: type, d: int, shrinkage: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the only image of a class, with which the class goes; and of new images, without each known one."""
    (X, y), new = draw(2, d), draw(1, d)[0]
    detector = kind(shrinkage).fit(X, y)
    monkeypatch.setattr(mahalanobis, "DISTANCES_AT_ONCE", 5 * X[:, :4].size)
    scores = detector.score_without(new)
    for i in range(len(X)):
        without = kind(shrinkage).fit(np.delete(X, i, axis=0), np.delete(y, i))
        assert without.score_samples(X[[i]])[0] == pytest.approx(detector.loo_scores_[i], rel=1e-8)
        assert without.score_samples(new) == pytest.approx(scores[:, i], rel=1e-8)


def test_relative_is_the_difference_to_one_gaussian_of_the_same_shrinkage() -> None:
    (X, y), new = draw(3, 12), draw(4, 12)[0]
    share = estimated(X, y)
    expected = slow(X, y, new, share) - slow(X, np.zeros(len(X), dtype=int), new, share)
    assert np.allclose(RelativeMahalanobisDetector().fit(X, y).score_samples(new), expected)


@pytest.mark.parametrize("shrinkage", [None, 0.3])
def test_margin_adds_two_fifths_of_the_mean_distance_to_all_classes(shrinkage: float | None) -> None:
    (X, y), new = draw(3, 12), draw(4, 12)[0]
    squared = slow_squared(X, y, new, (1 + estimated(X, y)) / 2 if shrinkage is None else shrinkage)
    found = MahalanobisMarginDetector(shrinkage).fit(X, y).score_samples(new)
    assert np.allclose(found, 0.4 * squared.mean(axis=1) - squared.min(axis=1))


def test_directions_in_which_classes_spread_count_less() -> None:
    rng = np.random.default_rng(0)
    spread = np.r_[1.0, np.full(15, 0.05)]
    X = np.r_[8.0, np.full(15, 8.0)] + spread * rng.normal(size=(60, 16))
    centre = X.mean(axis=0)
    detector = MahalanobisDetector().fit(X)
    along, across = (detector.score_samples((centre + 1.0 * e)[None])[0] for e in np.eye(16)[:2])
    assert across < 4 * along < 0


def test_too_few_images_are_refused() -> None:
    X, _ = draw(0, 6)
    for y in (None, np.array([0, 0]), np.array([0, 1])):
        with pytest.raises(UsageError, match=r"3 distinct images of one class, or 2 each of two classes, got"):
            MahalanobisDetector().fit(X[:2], y)
    with pytest.raises(UsageError, match="got 4"):
        MahalanobisDetector().fit(X[:4], np.arange(4))
    assert np.isfinite(MahalanobisDetector().fit(X[:4], np.array([0, 0, 1, 1])).loo_scores_).all()
    with pytest.raises(UsageError, match=r"a shrinkage in \(0, 1\], got 0"):
        MahalanobisDetector(0.0).fit(X)
    with pytest.raises(UsageError, match="2 classes or more, got 1"):
        RelativeMahalanobisDetector().fit(X, np.zeros(len(X)))


@pytest.mark.slow  # by default once a base class, in test_lof.py
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_passes_scikit_learns_own_checks() -> None:
    results = check_estimator(MahalanobisDetector(), on_fail=None)
    assert not [(r["check_name"], r["exception"]) for r in results if r["status"] not in ("passed", "skipped")]
