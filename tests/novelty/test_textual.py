"""Detectors of class names against loops over the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import (
    MahalanobisMarginDetector,
    MCMDetector,
    NegativeLabelsDetector,
    TextMarginDetector,
    mine_negatives,
)

RNG = np.random.default_rng(0)
X, CONCEPTS, WORDS = RNG.normal(size=(12, 16)), RNG.normal(size=(4, 16)), RNG.normal(size=(23, 16))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_mcm_is_the_largest_softmax_of_the_cosines(temperature: float) -> None:
    expected = []
    for x in X:
        weights = [math.exp(cosine(x, t) / temperature) for t in CONCEPTS]
        best = weights.pop(int(np.argmax(weights)))
        expected.append(math.log(best / sum(weights)))
    detector = MCMDetector(CONCEPTS, temperature).fit(X[:6])
    assert np.allclose(detector.score_samples(X), expected)
    assert np.allclose(detector.loo_scores_, expected[:6])


@pytest.mark.parametrize("groups", [1, 5, 100])
def test_negative_labels_share_a_softmax_with_the_known_ones(groups: int) -> None:
    detector = NegativeLabelsDetector(CONCEPTS, WORDS, 0.1, groups).fit(X)
    order = [int(np.argmin(np.abs(WORDS - n * np.linalg.norm(WORDS, axis=1)[:, None]).sum(axis=1)))
             for n in detector.negatives_]  # fmt: skip
    assert sorted(order) == list(range(len(WORDS)))
    for x, score in zip(X, detector.score_samples(X), strict=True):
        known = sum(math.exp(cosine(x, t) / 0.1) for t in CONCEPTS)
        parts = np.array_split(order, min(groups, len(WORDS)))
        shares = [known / (known + sum(math.exp(cosine(x, WORDS[i]) / 0.1) for i in part)) for part in parts]
        assert expit(score) == pytest.approx(float(np.mean(shares)))


def test_mined_negatives_are_the_words_farthest_from_the_names() -> None:
    concepts = np.eye(16)[:3]
    words = np.concatenate([concepts + 0.1, np.eye(16)[3:8], -np.eye(16)[:2]])
    assert set(mine_negatives(concepts, words, 7)) == set(range(3, 10))
    near = [np.quantile([cosine(w, c) for c in CONCEPTS], 0.95) for w in WORDS]
    assert list(mine_negatives(CONCEPTS, WORDS, 9)) == list(np.argsort(near)[:9])
    with pytest.raises(UsageError, match=r"a count in 1\.\.23, got 24"):
        mine_negatives(CONCEPTS, WORDS, 24)


def test_a_picture_of_a_negative_scores_lower() -> None:
    detector = NegativeLabelsDetector(CONCEPTS, WORDS, groups=1).fit(CONCEPTS)
    assert detector.score_samples(CONCEPTS).min() > 0 > detector.score_samples(WORDS).max()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="2 concepts or more, got 1"):
        MCMDetector(CONCEPTS[:1]).fit(X)
    with pytest.raises(UsageError, match="temperature > 0"):
        NegativeLabelsDetector(CONCEPTS, WORDS, 0.0).fit(X)
    with pytest.raises(UsageError, match=r"negatives, \(rows, 16\) text features, got none"):
        NegativeLabelsDetector(CONCEPTS).fit(X)
    with pytest.raises(UsageError, match="concepts: expected finite features"):
        MCMDetector(CONCEPTS * np.nan).fit(X)


Y = np.repeat(np.arange(4), 3)


def oracle(rows: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The margin in the unit of the rows, and half a cosine to the nearest name as far as names are right."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    residuals = unit - np.array([unit[c == y].mean(axis=0) for c in range(4)])[y]
    variance = (residuals**2).sum() / (len(y) - 4) / rows.shape[1]
    right = np.mean([np.argmax([cosine(x, t) for t in CONCEPTS]) == c for x, c in zip(rows, y, strict=True)])
    names = np.array([max(cosine(x, t) for t in CONCEPTS) for x in new])
    margin = MahalanobisMarginDetector().fit(rows, y).score_samples(new)
    return variance / 2 * margin + 0.5 * max(0.0, (right - 1 / 4) / (3 / 4)) * names


def test_text_margin_adds_the_cosine_to_the_names_as_far_as_they_name_the_known_images() -> None:
    named = X + CONCEPTS[Y] * np.r_[np.ones(9), -np.ones(3)][:, None]  # the last class has a name that is wrong
    new = RNG.normal(size=(7, 16))
    assert np.allclose(TextMarginDetector(CONCEPTS).fit(named, Y).score_samples(new), oracle(named, Y, new))
    strange = TextMarginDetector(CONCEPTS[::-1]).fit(named, Y)  # names of other classes have no weight
    alone = MahalanobisMarginDetector().fit(named, Y).score_samples(new)
    assert np.ptp(strange.score_samples(new) / alone) < 1e-12


def test_text_margin_leave_one_out_equals_refits() -> None:
    """Also of the only image of a class, of which the name stays."""
    y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3])
    named = X + CONCEPTS[y]
    detector, new = TextMarginDetector(CONCEPTS).fit(named, y), X + CONCEPTS[::-1][y]
    scores = detector.score_without(new)
    for i in range(len(y)):
        rest = np.delete(np.arange(len(y)), i)
        without = TextMarginDetector(CONCEPTS).fit(named[rest], y[rest])
        assert without.score_samples(named[[i]])[0] == pytest.approx(detector.loo_scores_[i], rel=1e-8)
        assert without.score_samples(new) == pytest.approx(scores[:, i], rel=1e-8)


def test_names_that_are_one_text_have_no_weight() -> None:
    detector = TextMarginDetector(np.repeat(CONCEPTS[:1], 4, axis=0)).fit(X, Y)
    assert detector.weights_[1] == 0


def test_text_margin_wants_a_concept_of_each_class() -> None:
    with pytest.raises(UsageError, match="4 concepts, one of each class, got 5"):
        TextMarginDetector(WORDS[:5]).fit(X, Y + 7)
    with pytest.raises(UsageError, match="4 concepts, one of each class, got 3"):
        TextMarginDetector(CONCEPTS[:3]).fit(X, Y)
