"""p-values against brute-force ranks, and their false-alarm rate against the promise, by simulation.

The simulations are seeded. Their bounds are 4.9 standard errors wide: a right implementation fails once in a million
draws of the seed.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from clip_fewshot.conformal.p_values import (
    UnsupportedAlphaError,
    check_alpha,
    choose_alpha,
    choose_alphas,
    cross_p_values,
    explain_alpha,
    flag,
    p_values,
    smallest_alpha,
    smallest_shots,
)
from clip_fewshot.errors import UsageError
from clip_fewshot.novelty import LOFDetector

MANY = settings(max_examples=80, deadline=None)
SCORES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@MANY
@given(SCORES, SCORES)
def test_p_values_are_ranks(calibration: list[float], scores: list[float]) -> None:
    n = len(calibration)
    expected = [(1 + sum(c <= s for c in calibration)) / (n + 1) for s in scores]
    assert np.allclose(p_values(np.array(calibration), np.array(scores)), expected)
    smoothed = p_values(np.array(calibration), np.array(scores), smoothed=True)
    assert (smoothed <= np.array(expected)).all()
    assert (smoothed >= [sum(c < s for c in calibration) / (n + 1) for s in scores]).all()


def test_the_last_bit_of_a_score_moves_no_p_value() -> None:
    """Nor do the last ten; a millionth does, whatever the sign of the score."""
    calibration = np.append(np.random.default_rng(3).normal(size=39), 0.0)
    scores = calibration[::4]
    for asked in (p_values, partial(p_values, smoothed=True), lambda c, s: cross_p_values([c, c], [s, s])):
        plain = asked(calibration, scores)
        for ends in (scores * (1 - 1e-13), scores * (1 + 1e-13)):
            assert asked(calibration, ends).tolist() == plain.tolist()
    plain, apart = p_values(calibration, scores), 1e-6 * np.abs(scores) + 1e-6
    assert (p_values(calibration, scores - apart) < plain).all()
    assert p_values(calibration, scores + apart).tolist() == plain.tolist()


def test_low_scores_are_novel() -> None:
    calibration = np.arange(19.0)
    assert p_values(calibration, np.array([-1.0, 8.5, 99.0])) == pytest.approx([0.05, 0.5, 1.0])
    assert list(flag(p_values(calibration, np.array([-1.0, 8.5])), 0.05, 19)) == [True, False]


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.2, 4), (0.3, 3), (0.5, 1), (0.9, 1)])
def test_the_number_of_shots_an_alpha_needs(alpha: float, n: int) -> None:
    assert smallest_shots(alpha) == n
    assert smallest_alpha(n) <= alpha + 1e-12
    check_alpha(alpha, n)
    assert flag(p_values(np.arange(float(n)), np.array([-1.0])), alpha, n)[0]


def test_an_alpha_that_can_never_fire_is_refused_with_the_n_that_would() -> None:
    """conformal_clip clips the rank instead: at alpha = .1 with 1 to 4 shots its coverage is .50 to .80, silently."""
    with pytest.raises(
        UnsupportedAlphaError, match=r"99 calibration images or more for alpha = 0\.01, got 16"
    ) as caught:
        flag(np.array([1.0]), 0.01, 16)
    assert (caught.value.n, caught.value.needed) == (16, 99)
    with pytest.raises(UsageError, match=r"alpha in \(0, 1\), got 5"):
        check_alpha(5, 100)


@pytest.mark.parametrize("n", [1, 3, 8, 19, 64])
def test_false_alarms_of_exchangeable_scores(n: int) -> None:
    rng, runs = np.random.default_rng(n), 20_000
    scores = np.round(rng.normal(size=(runs, n + 1)), 1)  # with ties
    p = (1 + (scores[:, :n] <= scores[:, n:]).sum(axis=1)) / (n + 1)
    assert np.allclose(p[:50], [p_values(row[:n], row[n:])[0] for row in scores[:50]])
    for alpha in (0.05, 0.1, 0.5):
        assert (p <= alpha + 1e-9).mean() <= alpha + 4.9 * np.sqrt(alpha * (1 - alpha) / runs)


def test_smoothed_p_values_are_uniform_even_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, size=(4000, 6)).astype(float)
    p = [p_values(row[:5], row[5:], smoothed=True, seed=i)[0] for i, row in enumerate(scores)]
    assert kstest(p, "uniform").pvalue > 1e-6
    assert (
        p_values(scores[0], scores[1], smoothed=True).tolist() == p_values(scores[0], scores[1], smoothed=True).tolist()
    )


def known(rng: np.random.Generator, n: int, d: int = 32) -> np.ndarray:
    """n images of five classes, as an encoder would see them."""
    centres = np.random.default_rng(7).normal(size=(5, d)) * 0.4
    return 1 + centres[np.arange(n) % 5] + 0.3 * rng.normal(size=(n, d))


def by_folds(X: np.ndarray, new: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """LOF of each of four folds: its scores of what is held out, and of what is new."""
    part = np.arange(len(X)) // 5 % 4
    detectors = [LOFDetector(k).fit(X[part != fold]) for fold in range(4)]
    return [(one.score_samples(X[part == fold]), one.score_samples(new)) for fold, one in enumerate(detectors)]


@pytest.mark.parametrize(("shots", "k"), [(4, 2), (16, 3)])
def test_false_alarms_of_leave_one_out_and_cross_conformal_lof(shots: int, k: int) -> None:
    """The same few images fit and calibrate; LOF's own contamination flags 14 to 26 % where 10 % was asked."""
    rng, runs, fresh = np.random.default_rng(shots), 60, 100
    rates = {"loo": [], "cross": []}
    for _ in range(runs):
        X, new = known(rng, 5 * shots), known(rng, fresh)
        detector = LOFDetector(k).fit(X)
        p = p_values(detector.loo_scores_, detector.score_samples(new))
        rates["loo"].append(flag(p, 0.1, len(detector.loo_scores_)).mean())
        rates["cross"].append(flag(cross_p_values(*zip(*by_folds(X, new, k), strict=True)), 0.1, len(X)).mean())
    for name, rate in rates.items():
        error = np.std(rate, ddof=1) / np.sqrt(runs)
        assert np.mean(rate) <= 0.1 + 3 * error, name
        assert np.mean(rate) >= 0.03, name  # a rule that flags nothing would be worthless


def test_cross_conformal_equals_counting() -> None:
    rng = np.random.default_rng(0)
    folds = by_folds(known(rng, 40), known(rng, 6), 2)
    # LOF scores can tie: a picture and a known one with the same k neighbours, none nearer than they reach.
    below = [sum((held <= scores[i] + 1e-9).sum() for held, scores in folds) for i in range(6)]
    assert np.allclose(cross_p_values(*zip(*folds, strict=True)), (1 + np.array(below)) / 41)


def test_one_fold_is_split_conformal() -> None:
    rng = np.random.default_rng(2)
    calibration, scores = rng.normal(size=30), rng.normal(size=7)
    assert np.allclose(cross_p_values([calibration], [scores]), p_values(calibration, scores))


@pytest.mark.parametrize("n", [1, 2, 7, 12, 14, 18, 112, 640])
def test_the_alpha_a_refusal_advises_is_not_refused(n: int) -> None:
    with pytest.raises(UnsupportedAlphaError) as refused:
        check_alpha(0.5 / (n + 1), n)
    advised = float(refused.value.fix.rsplit(" ", 1)[1])
    check_alpha(advised, n)
    assert advised < smallest_alpha(n) + 1e-4


@pytest.mark.parametrize("n", [1, 4, 18, 19, 20, 200])
def test_the_usual_alpha_rises_to_what_is_supported_and_another_stays(n: int) -> None:
    usual = choose_alpha(None, n)
    check_alpha(usual, n)
    assert usual == pytest.approx(0.05 if n >= 19 else 1 / (n + 1))
    assert len(explain_alpha(None, n)) == (n < 19)
    assert (choose_alpha(0.01, n), explain_alpha(0.01, n)) == (0.01, [])
    for alpha in choose_alphas((), n):
        check_alpha(alpha, n)
    assert choose_alphas((0.01,), n) == (0.01,)
