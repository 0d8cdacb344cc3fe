"""Cosines to class means against a loop, and against refits without each row."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import ClassMeanDetector

RNG = np.random.default_rng(0)
X, Y, NEW = RNG.normal(size=(12, 7)), np.repeat([0, 1, 2], [7, 4, 1]), RNG.normal(size=(5, 7))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_is_the_largest_cosine_to_a_mean_of_directions() -> None:
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = [max(cosine(q, unit[c == Y].mean(axis=0)) for c in range(3)) for q in NEW]
    assert np.allclose(ClassMeanDetector().fit(10 * X, Y).score_samples(3 * NEW), expected)


def test_leave_one_out_equals_refits() -> None:
    """Also of the only image of a class, with which the class goes."""
    detector = ClassMeanDetector().fit(X, Y)
    for i in range(len(X)):
        without = ClassMeanDetector().fit(np.delete(X, i, axis=0), np.delete(Y, i))
        assert without.score_samples(X[[i]])[0] == pytest.approx(detector.loo_scores_[i], rel=1e-12)
        assert without.score_samples(NEW) == pytest.approx(detector.score_without(NEW)[:, i], rel=1e-12)


def test_one_image_is_refused() -> None:
    with pytest.raises(UsageError, match="2 distinct rows or more, got 1"):
        ClassMeanDetector().fit(np.ones((3, 4)))
