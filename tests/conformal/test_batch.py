"""Pictures judged together against dense matrices, exchanged pairs, and the bound that the exchange gives."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.preprocessing import normalize

from clip_fewshot.conformal import batch, schemes
from clip_fewshot.conformal.batch import LEAK, STEPS, TIES, ask_held_out, ask_together, count_ways
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.novelty import KNNDetector, MahalanobisDetector
from tests.conformal.test_calibration import Nearest, Odd
from tests.conformal.test_calibration_laws import CHANCE


def world(seed: int, shots: int = 8, known: int = 30, new: int = 30) -> tuple[np.ndarray, ...]:
    """(3 shots, 6) known pictures of three classes, their classes, more of them, and those of a new class."""
    random = np.random.default_rng(seed)
    centres = np.concatenate([2 * np.eye(3, 6), [[2, 0, 0, 1, 0, 0]]])
    y, more = np.repeat(np.arange(3), shots), random.integers(0, 3, known)
    at = centres[np.concatenate([y, more, np.full(new, 3)])]
    X = at + 0.35 * random.normal(size=at.shape)
    return X[: len(y)], y, X[len(y) : len(y) + known], X[len(y) + known :]


def ties_of(rows: np.ndarray) -> np.ndarray:
    """(N, N) ties of unit rows."""
    squared = ((rows[:, None] - rows) ** 2).sum(axis=2)
    np.fill_diagonal(squared, np.inf)
    near = squared <= np.sort(squared, axis=1)[:, [TIES - 1]]
    return np.where(near | near.T, np.exp(-squared / np.median(squared[near])), 0)


def dense_ways(rows: np.ndarray) -> np.ndarray:
    """(N, N) what reaches each unit row from each."""
    ties = ties_of(rows)
    degrees = ties.sum(axis=1)
    scale = 1 / np.sqrt(degrees + LEAK * np.median(degrees))
    step = scale[:, None] * ties * scale
    return sum(np.linalg.matrix_power(step, t) for t in range(STEPS + 1)) * scale[:, None] * scale


def test_ways_are_counted_as_in_a_dense_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = normalize(np.random.default_rng(0).normal(size=(30, 4)))
    ties, dense = ties_of(rows), dense_ways(rows)
    degrees = ties.sum(axis=1)
    parts = [np.array([3]), np.array([0, 7, 11])]
    monkeypatch.setattr(batch, "FROM_AT_A_TIME", 5)
    reached, own = count_ways(rows, 12, parts)
    for part, found in zip(parts, reached, strict=True):
        assert found == pytest.approx(np.delete(dense[:, :12], part, axis=1).sum(axis=1), rel=1e-9)
    assert own == pytest.approx(np.diag(dense)[:12], rel=1e-9)
    whole = np.linalg.inv(np.diag(degrees + LEAK * np.median(degrees)) - ties)  # ways of any length
    assert own == pytest.approx(np.diag(whole)[:12], rel=0.15)


def test_a_score_is_that_of_the_detector_and_what_speaks_against_a_picture() -> None:
    X, _, known, new = world(7)
    detector, rows, n = MahalanobisDetector().fit(X), np.concatenate([X, known[:2], new]), len(X)
    ways = dense_ways(normalize(rows))[:, :n]
    reached, others = np.log(ways.sum(axis=1))[n:], np.log(ways.sum(axis=1)[:n] - np.diag(ways))
    company, loo = (reached - others.mean()) / others.std(), detector.loo_scores_
    expected = (detector.score_samples(rows[n:]) - loo.mean()) / loo.std() + np.minimum(company, 0)
    assert np.concatenate(ask_held_out(detector, X, known[:2], new)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("make", [Nearest, MahalanobisDetector])
def test_a_known_picture_left_out_and_a_new_one_may_change_places(make: type) -> None:
    """What the bound stands on: their scores are the same, whichever of the two is the known one."""
    X, _, known, new = world(1)
    detector, company = make().fit(X), np.concatenate([known[2:], new])
    one, other = known[:1], known[1:2]
    first = ask_held_out(detector, X, one, np.concatenate([other, company]))
    second = ask_held_out(detector, X, other, np.concatenate([company, one]))
    assert first.held_out == pytest.approx(second.batch[-1:], rel=1e-9)
    assert second.held_out == pytest.approx(first.batch[:1], rel=1e-9)


@pytest.mark.parametrize("make", [Nearest, Odd, partial(KNNDetector, 3)])
def test_no_company_breaks_the_bound(make: type) -> None:
    """Each picture of a bag in the new one's place, beside the same others: few have a small p-value, always."""
    X, _, known, new = world(2, shots=6)
    company = np.concatenate([known[:4], new[:9]])
    batches = [np.concatenate([X[[i]], company]) for i in range(len(X))]
    p = np.array([Calibrated(make).fit(np.delete(X, i, 0)).p_values(rows, True)[0] for i, rows in enumerate(batches)])
    for count in range(1, len(X)):
        alpha = count / len(X)
        assert np.sum(p <= alpha + 1e-9) <= 2 * alpha * len(X) - 1


def test_copies_in_a_batch_count_once_and_order_has_no_say() -> None:
    X, y, known, new = world(3)
    calibrated, pictures = Calibrated(partial(KNNDetector, 3), "leave-one-out").fit(X, y), np.concatenate([known, new])
    p = calibrated.p_values(pictures, together=True)
    copied = np.concatenate([pictures[::-1], pictures[:20], X[:2]])
    again = calibrated.p_values(copied, together=True)
    assert again.tolist() == [*p[::-1], *p[:20], 1.0, 1.0]


@pytest.mark.parametrize("per_class", [False, True])
def test_a_new_class_is_known_by_its_company(per_class: bool) -> None:
    X, y, known, new = world(0, shots=12, known=80, new=40)
    calibrated = Calibrated(Nearest, "leave-one-out", per_class).fit(X, y)
    pictures, alpha = np.concatenate([known, new]), 0.1
    alone, together = (calibrated.p_values(pictures, one) <= alpha for one in (False, True))
    assert together[:80].mean() <= 2 * alpha
    assert together[80:].mean() >= alone[80:].mean() + 0.2


def test_a_lone_picture_and_none_are_batches_too() -> None:
    X, y, known, _ = world(5)
    calibrated = Calibrated(MahalanobisDetector).fit(X, y)
    assert 0 < calibrated.p_values(known[:1], together=True)[0] <= 1
    assert calibrated.p_values(known[:0], together=True).shape == (0,)


def test_many_known_pictures_are_left_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector for each twentieth of every class; each known picture is scored by the one that has not seen it."""
    monkeypatch.setattr(schemes, "ALONE", 10)
    X, y, known, new = world(6, shots=30)
    calibrated = Calibrated(MahalanobisDetector, "leave-one-out").fit(X, y)
    pictures = np.concatenate([known, new])
    p = calibrated.p_values(pictures, together=True)
    parts = calibrated._together()
    assert len(parts.detectors) == 20
    assert np.sort(np.concatenate(parts.parts)).tolist() == list(range(len(X)))
    count, bag = np.ones(len(pictures)), calibrated.bag_.rows
    for detector, rows in zip(parts.detectors, parts.parts, strict=True):
        (asked,) = ask_together([detector], bag, [rows], pictures)
        count += (asked.held_out <= asked.batch[:, None] + 1e-9).sum(axis=1)
    assert p == pytest.approx(count / (len(X) + 1))


def test_false_alarms_stay_near_alpha_whatever_the_company() -> None:
    """Bounded by 2 alpha; near alpha where detectors are no trick. Company of known, of new, of both, of none."""
    hits, runs, alpha = 0, 100, 0.2
    for i in range(runs):
        X, y, known, new = world(100 + i, shots=3, known=1 + 5 * (i % 2), new=8 * (i // 2 % 2))
        calibrated = Calibrated(Nearest, "leave-one-out").fit(X, y)
        hits += int(calibrated.p_values(np.concatenate([known, new]), together=True)[0] <= alpha)
    assert binom.ppf(CHANCE, runs, alpha / 2) <= hits <= binom.ppf(1 - CHANCE, runs, alpha)
