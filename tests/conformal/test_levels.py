"""Scores in units of a class, against the same written out pair by pair; what they are for; what must not break."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.preprocessing import normalize

from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.conformal.levels import PLACE_PRIOR, SPREAD_PRIOR, Looks, find_looks, scale_scores
from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import KNNDetector
from tests.conformal.test_calibration import Nearest

CHANCE = 1e-6


def nearest_mean(rows: np.ndarray, kinds: np.ndarray, x: np.ndarray) -> int:
    """The class whose mean direction is nearest; classes without rows are no choice."""
    there = np.unique(kinds)
    means = normalize(np.stack([normalize(rows)[kinds == one].mean(axis=0) for one in there]))
    return int(there[np.argmax(means @ x)])


def moved(score: float, look: int, others: np.ndarray, kinds: np.ndarray) -> float:
    """A score in the units of an average class, from the scores of the known pictures that are left."""
    inside = [others[kinds == one] for one in np.unique(kinds)]
    freedom = len(others) - len(inside)
    within = sum(((one - one.mean()) ** 2).sum() for one in inside) / max(freedom, 1)
    own = others[kinds == look]
    place = (own.sum() + PLACE_PRIOR * others.mean()) / (len(own) + PLACE_PRIOR)
    squares = ((own - own.mean()) ** 2).sum() if len(own) else 0.0
    spread = (squares + SPREAD_PRIOR * within) / (max(len(own) - 1, 0) + SPREAD_PRIOR)
    return float(others.mean() + (score - place) * (np.sqrt(within / spread) if spread else 1.0))


@pytest.mark.parametrize("counts", [(6, 4, 3), (1, 5, 1), (1, 1, 1), (7,)], ids=str)
def test_looks_and_levels_are_those_of_what_is_left_without_the_pair(counts: tuple[int, ...]) -> None:
    random = np.random.default_rng(sum(counts))
    kinds = random.permutation(np.repeat(np.arange(len(counts)), counts))
    rows, X, n = random.normal(size=(len(kinds), 4)) + kinds[:, None], random.normal(size=(5, 4)) + 1, len(kinds)
    looks = find_looks(rows, kinds, X)
    members, own = random.normal(size=(5, n)), random.normal(size=(5, n))
    found = scale_scores(members, own, kinds, looks)
    for i in range(n):
        left, kept = np.delete(rows, i, axis=0), np.delete(kinds, i)
        assert looks.members[i] == nearest_mean(left, kept, normalize(rows)[i])
        for j in range(len(X)):
            assert looks.pictures[j, i] == nearest_mean(left, kept, normalize(X)[j])
            others = np.delete(members[j], i)
            for scores, look, got in ((members, looks.members[i], found[0]), (own, looks.pictures[j, i], found[1])):
                assert got[j, i] == pytest.approx(moved(scores[j, i], int(look), others, kept))


def test_what_is_infinite_stays_as_it_is() -> None:
    """A detector scores the copy of a new picture as infinitely normal."""
    members, own = np.array([[1.0, 2.0, np.inf], [1.0, 2.0, 3.0]]), np.array([[1.5], [1.5]])
    looks = Looks(np.array([0, 0, 1]), np.array([[0, 0, 0], [1, 1, 1]]))
    found = scale_scores(members, own, np.array([0, 0, 1]), looks)
    assert found[0][0].tolist() == [1, 2, np.inf]
    assert found[1][0].tolist() == [1.5, 1.5, 1.5]
    assert np.isfinite(found).sum() == 11


def test_levels_take_classes() -> None:
    with pytest.raises(UsageError, match="levelled=False"):
        Calibrated(KNNDetector, levelled=True).fit(np.eye(4))


def spread_out(random: np.random.Generator, y: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Pictures of classes that are the looser the greater their number."""
    return np.asarray(centres[y] + random.normal(size=(len(y), 16)) * (0.1 + 0.1 * y[:, None]))


@pytest.mark.parametrize("scheme", ["full", "leave-one-out", "split"])
def test_no_class_bears_the_false_alarms_of_all(scheme: str) -> None:
    random, alpha, shots, draws = np.random.default_rng(0), 0.1, 16, 8
    y, known_y = np.repeat(np.arange(6), shots), np.repeat(np.arange(6), 500)
    alarms: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for _ in range(draws):
        centres = 2 * normalize(random.normal(size=(6, 16)))
        X, known = (spread_out(random, one, centres) for one in (y, known_y))
        for levelled, found in alarms.items():
            p = Calibrated(KNNDetector, scheme, levelled=levelled).fit(X, y).p_values(known)
            found.append((p <= alpha + 1e-9).reshape(6, 500).mean(axis=1))
    worst = {levelled: float(np.mean(found, axis=0).max()) for levelled, found in alarms.items()}
    assert worst[True] < 2 * alpha < 2.5 * alpha < worst[False]
    assert np.mean(alarms[True]) < 1.2 * alpha


@pytest.mark.parametrize("scheme", ["full", "leave-one-out", "split"])
def test_false_alarms_of_levelled_scores(scheme: str) -> None:
    """Classes and pictures drawn alike, so that one more known picture is exchangeable with the others."""
    hits, runs, n, alpha = 0, 400, 19, 0.2
    for i in range(runs):
        random = np.random.default_rng(i)
        y = random.integers(0, 3, n + 1)
        X = normalize(np.eye(3, 6))[y] + random.normal(size=(n + 1, 6)) * (0.2 + 0.2 * y[:, None])
        calibrated = Calibrated(Nearest, scheme, levelled=True).fit(X[:n], y[:n])
        hits += int(calibrated.p_values(X[n:])[0] <= alpha + 1e-9)
    assert hits <= binom.ppf(1 - CHANCE, runs, alpha)
    assert hits >= binom.ppf(CHANCE, runs, alpha / 2)
