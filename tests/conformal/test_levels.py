"""Scores in units of a class, against the same written out pair by pair; what they are for; what must not break."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.preprocessing import normalize

from clip_fewshot.conformal import levels
from clip_fewshot.conformal.bags import Comparison
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.conformal.levels import FEW_PRIOR, LIKENESS, PLACE_PRIOR, SPREAD_PRIOR, Looks, scale_scores
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
    spreads = sum(len(one) * (one.mean() - others.mean()) ** 2 for one in inside) / max(len(inside) - 1, 1)
    between = max(spreads - within, 0) * len(inside) / len(others)
    likeness = within / between if between else np.inf
    few = FEW_PRIOR * min(max(likeness, LIKENESS[0]), LIKENESS[1]) / max(len(own), 1) ** 2
    prior = max(min(likeness, PLACE_PRIOR), few)
    place = (own.sum() + prior * others.mean()) / (len(own) + prior)
    squares = ((own - own.mean()) ** 2).sum() if len(own) else 0.0
    spread = (squares + SPREAD_PRIOR * within) / (max(len(own) - 1, 0) + SPREAD_PRIOR)
    return float(others.mean() + (score - place) * (np.sqrt(within / spread) if spread else 1.0))


@pytest.mark.parametrize("counts", [(6, 4, 3), (1, 5, 1), (1, 1, 1), (7,)], ids=str)
def test_looks_and_levels_are_those_of_what_is_left_without_the_pair(counts: tuple[int, ...]) -> None:
    random = np.random.default_rng(sum(counts))
    kinds = random.permutation(np.repeat(np.arange(len(counts)), counts))
    rows, X, n = random.normal(size=(len(kinds), 4)) + kinds[:, None], random.normal(size=(5, 4)) + 1, len(kinds)
    looks = Looks(rows, kinds, np.arange(n))
    without = looks.find_without(X)
    members, own = random.normal(size=(5, n)), random.normal(size=(5, n))
    found = scale_scores(Comparison(members, own), looks, X)
    for i in range(n):
        left, kept = np.delete(rows, i, axis=0), np.delete(kinds, i)
        assert looks.members[i] == nearest_mean(left, kept, normalize(rows)[i])
        for j in range(len(X)):
            assert without[j, i] == nearest_mean(left, kept, normalize(X)[j])
            others = np.delete(members[j], i)
            for scores, look, got in ((members, looks.members[i], found[0]), (own, without[j, i], found[1])):
                assert got[j, i] == pytest.approx(moved(scores[j, i], int(look), others, kept))


def test_what_is_infinite_stays_as_it_is() -> None:
    """A detector scores the copy of a new picture as infinitely normal."""
    members, own = np.array([[1.0, 2.0, np.inf], [1.0, 2.0, 3.0]]), np.array([[1.5], [1.5]])
    looks = Looks(np.eye(3), np.array([0, 0, 1]), np.arange(3))
    found = scale_scores(Comparison(members, own), looks, np.eye(3)[[0, 2]])
    assert found.members[0].tolist() == [1, 2, np.inf]
    assert found.own[0].tolist() == [1.5, 1.5, 1.5]
    assert np.isfinite(found.members).sum() + np.isfinite(found.own).sum() == 11


@pytest.mark.parametrize("scheme", ["full", "leave-one-out", "split"])
def test_many_known_pictures_are_levelled_once_for_all_new_ones(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known picture without itself, a new one with all known ones; written out, from scores beside no new picture."""
    random = np.random.default_rng(0)
    kinds = np.repeat(np.arange(3), (9, 7, 8))
    rows, X = random.normal(size=(24, 4)) + kinds[:, None], random.normal(size=(5, 4)) + 1
    calibrated = Calibrated(partial(KNNDetector, 2), scheme, levelled=True).fit(rows, kinds)
    bag, places = calibrated.bag_, calibrated.scheme_.places
    assert bag.labels is not None
    (one,) = {id(one): one for one in calibrated.scheme_.compare(X, [0, 1, 2]).values()}.values()
    monkeypatch.setattr(levels, "ALONE", 1)
    looks = Looks(bag.rows, bag.labels, places)
    found, alone, own = scale_scores(one, looks, X), one.alone, np.broadcast_to(one.own, one.members.shape)
    assert alone is not None
    for j, x in enumerate(normalize(X)):
        look = nearest_mean(bag.rows, bag.labels, x)
        for i in range(len(places)):
            others, kept = np.delete(alone, i), np.delete(bag.labels[places], i)
            expected = moved(one.members[j, i], int(looks.members[i]), others, kept)
            assert found.members[j, i] == pytest.approx(expected)
            got = np.broadcast_to(found.own, own.shape)[j, i]
            assert got == pytest.approx(moved(own[j, i], look, alone, bag.labels[places]))


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
