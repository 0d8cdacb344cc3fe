"""LOF against scikit-learn, against a loop over the definitions, and against refits without each row."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import LocalOutlierFactor
from sklearn.utils.estimator_checks import check_estimator

from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.errors import UsageError
from clip_fewshot.neighbors.exact import find_nearest_others
from clip_fewshot.novelty import LOFDetector
from clip_fewshot.novelty import lof as lof_module

MANY = settings(max_examples=40, deadline=None)


def unit(X: np.ndarray) -> np.ndarray:
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def draw(seed: int, n: int = 40, d: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + 1


def lof_by_definition(rows: np.ndarray, query: np.ndarray, k: int) -> float:
    """Definitions 3, 5, 6, 7 of the paper for one new point."""

    def near(p: np.ndarray, others: list[int]) -> list[int]:
        return sorted(others, key=lambda j: float(np.linalg.norm(rows[j] - p)))[:k]

    def k_distance(j: int) -> float:
        others = [i for i in range(len(rows)) if i != j]
        return max(float(np.linalg.norm(rows[i] - rows[j])) for i in near(rows[j], others))

    def density(p: np.ndarray, others: list[int]) -> float:
        return 1 / np.mean([max(float(np.linalg.norm(rows[j] - p)), k_distance(j)) for j in near(p, others)])

    everyone = list(range(len(rows)))
    around = near(query, everyone)
    inside = [density(rows[j], [i for i in everyone if i != j]) for j in around]
    return float(np.mean(inside) / density(query, everyone))


@MANY
@given(st.integers(0, 9999), st.integers(1, 12))
def test_equals_scikit_learn(seed: int, k: int) -> None:
    X, new = draw(seed), draw(seed + 1, n=15)
    oracle = LocalOutlierFactor(n_neighbors=k, novelty=True, algorithm="brute").fit(unit(X))
    assert np.allclose(LOFDetector(k).fit(X).score_samples(new), oracle.score_samples(unit(new)), rtol=1e-8)


def test_equals_the_definition() -> None:
    X, new = draw(0, n=15, d=3), draw(1, n=4, d=3)
    expected = [-lof_by_definition(unit(X), q, 4) for q in unit(new)]
    assert np.allclose(LOFDetector(4).fit(X).score_samples(new), expected, rtol=1e-10)


@MANY
@given(st.integers(0, 9999), st.integers(1, 9))
def test_leave_one_out_equals_refitting_without_each_row(seed: int, k: int) -> None:
    X = draw(seed, n=22, d=5)
    detector = LOFDetector(k).fit(X)
    for i in range(len(X)):
        without = LOFDetector(k).fit(np.delete(X, i, axis=0))
        assert without.n_neighbors_ == detector.n_neighbors_ == k
        assert without.score_samples(X[[i]])[0] == pytest.approx(detector.loo_scores_[i], rel=1e-9)


def test_thousands_of_rows_with_a_large_common_mean_equal_scikit_learn() -> None:
    """Past one tile, and where float32 distances without centring are off by 1e-3."""
    rng = np.random.default_rng(0)
    X = 5 + rng.normal(size=(30, 48))[rng.integers(0, 30, 2600)] + 0.5 * rng.normal(size=(2600, 48))
    detector = LOFDetector(20).fit(X[:2400])
    oracle = LocalOutlierFactor(20, novelty=True, algorithm="brute").fit(unit(X[:2400]))
    around = find_nearest_others(detector.rows_, 20).neighbours
    inside = -detector.density_[around].mean(axis=1) / detector.density_
    assert np.abs(inside - oracle.negative_outlier_factor_).max() < 1e-5
    assert np.abs(detector.score_samples(X[2400:]) - oracle.score_samples(unit(X[2400:]))).max() < 1e-5


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
def test_leave_one_out_in_blocks_of_any_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = LOFDetector(4).fit(draw(2)).loo_scores_
    monkeypatch.setattr(lof_module, "LOF_BLOCK", block)
    assert np.allclose(LOFDetector(4).fit(draw(2)).loo_scores_, whole, rtol=1e-12)  # sums of k terms, each positive


@pytest.mark.parametrize("copies", [2, 9, 30])
def test_copies_of_a_picture_change_nothing(copies: int) -> None:
    """scikit-learn, silently, scores an ordinary neighbour of the copies in the millions."""
    X = draw(3)
    near = X[[0]] + 1e-3 * draw(4, n=1)
    plain = LOFDetector(7).fit(X)
    jitter = 1e-8 * np.random.default_rng(0).normal(size=(copies, X.shape[1]))  # what another batch size does
    for repeated in (np.repeat(X[[0]], copies, axis=0), X[0] + jitter):
        detector = LOFDetector(7).fit(np.concatenate([X, repeated]))
        assert list(detector.kept_) == list(range(len(X)))
        assert detector.score_samples(near) == pytest.approx(plain.score_samples(near))
    if copies > 7:
        naive = LocalOutlierFactor(7, novelty=True).fit(np.concatenate([X, np.repeat(X[[0]], copies, axis=0)]))
        assert naive.score_samples(near)[0] < -1e5
    assert -2 < plain.score_samples(near)[0] < -0.5


@pytest.mark.parametrize(("n", "expected"), [(3, 1), (6, 2), (20, 9), (41, 20), (90, 20)])
def test_neighbours_stay_below_half_of_the_rows(n: int, expected: int) -> None:
    detector = LOFDetector(20).fit(draw(0, n=n))
    assert (detector.n_neighbors_, detector.n_neighbors) == (expected, 20)


def test_neighbours_are_at_most_half_of_the_images_of_the_smallest_class() -> None:
    X = draw(0, n=30)
    assert LOFDetector(20).fit(X, np.repeat([0, 1, 2], [16, 8, 6])).n_neighbors_ == 3
    assert LOFDetector(20).fit(X, np.arange(30)).n_neighbors_ == 1
    X[1] = X[0]  # the smallest class now has four distinct images
    assert LOFDetector(20).fit(X, np.repeat([0, 1], [5, 25])).n_neighbors_ == 2


def test_too_few_rows_are_refused_with_the_number_that_would_do() -> None:
    for X in (draw(0, n=2), np.ones((9, 4)), np.repeat(draw(0, n=2), 5, axis=0)):
        with pytest.raises(UsageError, match=r"3 distinct rows or more, got [12]"):
            LOFDetector().fit(X)
    with pytest.raises(UsageError, match="n_neighbors >= 1, got 0"):
        LOFDetector(0).fit(draw(0))


def test_tells_another_class_from_the_known_ones() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 32)) * 0.5
    known = 1 + centres[np.repeat([0, 1, 2], 30)] + 0.2 * rng.normal(size=(90, 32))
    novel = 1 + centres[3] + 0.2 * rng.normal(size=(30, 32))
    detector = LOFDetector(8).fit(known[::2])
    assert (detector.predict(known[1::2]) == 1).mean() > 0.8
    assert (detector.predict(novel) == -1).all()


def test_its_own_offset_is_the_twentieth_part_of_its_leave_one_out_scores() -> None:
    detector = LOFDetector(5).fit(draw(0, n=99))
    assert np.sum(detector.loo_scores_ < detector.offset_) == 4
    few = LOFDetector(2).fit(draw(0, n=10))
    assert few.offset_ == few.loo_scores_.min()


def test_length_and_direction_of_the_axes_do_not_matter() -> None:
    X, new = draw(5), draw(6, n=9)
    turn = np.linalg.qr(draw(7, n=8))[0]
    plain = LOFDetector(5).fit(X).score_samples(new)
    assert np.allclose(LOFDetector(5).fit(3 * X).score_samples(0.1 * new), plain)
    assert np.allclose(LOFDetector(5).fit(X @ turn).score_samples(new @ turn), plain)


def test_arrays_carry_the_detector_to_the_last_bit() -> None:
    X, new = np.concatenate([draw(0), draw(0)[:5]]), draw(1)
    detector = LOFDetector(6).fit(X, np.zeros(len(X)))
    loaded = LOFDetector.from_arrays({k: v.copy() for k, v in detector.to_arrays().items()})
    assert loaded.score_samples(new).tobytes() == detector.score_samples(new).tobytes()
    assert loaded.offset_ == detector.offset_
    assert loaded.loo_scores_.tobytes() == detector.loo_scores_.tobytes()


# scipy's array API stays off unless an environment variable was set before its import.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_passes_scikit_learns_own_checks() -> None:
    results = check_estimator(LOFDetector(), on_fail=None)
    assert not [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")]
    assert Counter(r["status"] for r in results)["passed"] >= 45


def test_false_alarms_where_more_neighbours_are_asked_for_than_a_class_has() -> None:
    """Shots of a fixed number: with two neighbours fewer than shots there are .16 in place of .1."""
    y, alarms = np.repeat(np.arange(4), 16), []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        centres, asked = 0.5 + 0.6 * rng.normal(size=(4, 256)), rng.integers(0, 4, 60)
        X, known = (centres[one] + 0.5 * rng.normal(size=(len(one), 256)) for one in (y, asked))
        alarms.append(Calibrated(partial(LOFDetector, 20)).fit(X, y).p_values(known) <= 0.1)
    assert np.mean(alarms) < 0.12
