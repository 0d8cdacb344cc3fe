"""Intervals against closed forms and against simulated experiments whose truth is known.

Coverage of a 95 % interval over R simulated experiments: a right one (coverage >= .93 in truth) falls below
.93 - 4.75 sqrt(.93 x .07 / R) once in a million seeds; the seeds are fixed.
"""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation import metrics
from clip_fewshot.evaluation.intervals import (
    accuracy_interval,
    mcnemar_test,
    paired_difference,
    sign_flip_test,
    statistic_difference,
    statistic_interval,
)
from clip_fewshot.types import EvalResult

RUNS = 300
LEAST = 0.93 - 4.75 * np.sqrt(0.93 * 0.07 / RUNS)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(31)


def true_accuracy(logit: float, *spreads: float) -> float:
    """Mean of expit(logit + sum of normal effects), by quadrature."""
    spread = float(np.sqrt(np.sum(np.square(spreads))))
    return float(np.sum(WEIGHTS * expit(logit + spread * NODES)) / WEIGHTS.sum())


def experiment(rng: np.random.Generator, s: int, n: int, logit: float, seeds: float, images: float) -> np.ndarray:
    effects = seeds * rng.normal(size=(s, 1)) + images * rng.normal(size=n)
    return rng.random((s, n)) < expit(logit + effects)


@pytest.mark.parametrize(
    ("s", "n", "logit", "seeds", "images"),
    [
        (1, 50, 1.5, 0, 1),
        (2, 100, 2, 0.2, 1.5),
        (5, 40, 2, 0.2, 2),
        (5, 300, 3.5, 0.3, 1.5),
        (5, 300, 2, 0, 2),
        (10, 300, 2, 0.4, 1),
    ],
)
def test_accuracy_intervals_hold_the_truth(s: int, n: int, logit: float, seeds: float, images: float) -> None:
    rng, truth = np.random.default_rng(0), true_accuracy(logit, seeds, images)
    results = [accuracy_interval(experiment(rng, s, n, logit, seeds, images)) for _ in range(RUNS)]
    held = np.mean([r.ci95[0] <= truth <= r.ci95[1] for r in results])
    assert held >= LEAST
    if s > 2:
        assert held < 0.995  # nor wide beyond use


def test_intervals_over_seeds_alone_would_not_hold_it() -> None:
    """The negative control: images are a sample too."""
    rng, truth = np.random.default_rng(0), true_accuracy(2, 0.05, 2)
    held = []
    for _ in range(RUNS):
        per_seed = experiment(rng, 5, 60, 2, 0.05, 2).mean(axis=1)
        reach = stats.t.ppf(0.975, 4) * per_seed.std(ddof=1) / np.sqrt(5)
        held.append(abs(per_seed.mean() - truth) <= reach)
    assert np.mean(held) < 0.8


@given(st.integers(0, 40), st.integers(1, 60))
def test_one_seed_is_wilson(hits: int, n: int) -> None:
    hits = min(hits, n)
    result = accuracy_interval([np.arange(n) < hits])
    oracle = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert result.ci95 == pytest.approx((oracle.low, oracle.high), abs=1e-12)
    assert (result.mean, result.n_test, result.per_seed) == (pytest.approx(hits / n), n, (pytest.approx(hits / n),))


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 999), st.floats(0, 1))
def test_intervals_stay_in_range_and_around_the_mean(s: int, n: int, seed: int, share: float) -> None:
    table = np.random.default_rng(seed).random((s, n)) < share
    result = accuracy_interval(list(table))
    assert 0 <= result.ci95[0] <= result.mean <= result.ci95[1] <= 1
    assert result.ci95[0] < result.ci95[1]
    assert result.mean == pytest.approx(table.mean())


def test_two_level_variance_equals_textbook_mean_squares() -> None:
    """The effective number of images, written down again from the analysis of variance."""
    table = np.random.default_rng(4).random((4, 30)) < np.linspace(0.4, 1, 30)
    grand, by_seed, by_image = table.mean(), table.mean(1), table.mean(0)
    ms_seed = 30 * sum((m - grand) ** 2 for m in by_seed) / 3
    ms_image = 4 * sum((m - grand) ** 2 for m in by_image) / 29
    ms_rest = sum((table[i, j] - by_seed[i] - by_image[j] + grand) ** 2 for i, j in product(range(4), range(30))) / 87
    variance = max(ms_seed + ms_image - ms_rest, ms_seed, ms_image) / 120
    low, high = accuracy_interval(table).ci95
    freedom = (variance * 120) ** 2 / (ms_seed**2 / 3 + ms_image**2 / 29 + ms_rest**2 / 87)
    z = stats.t.ppf(0.975, freedom)
    for end in (low, high):  # Wilson's ends are where (p - mean)^2 = z^2 p (1 - p) / m
        m = grand * (1 - grand) / variance
        assert (end - grand) ** 2 == pytest.approx(z**2 * end * (1 - end) / m)


def test_no_mistakes_is_not_no_doubt() -> None:
    perfect = accuracy_interval([np.ones(50, dtype=bool)] * 5)
    assert perfect.mean == perfect.ci95[1] == 1.0
    assert perfect.ci95[0] == pytest.approx(stats.binomtest(50, 50).proportion_ci(0.95, method="wilson").low)


def test_results_are_the_schema_s() -> None:
    record = accuracy_interval([np.array([True, False, True])] * 2).to_json()
    assert json.loads(json.dumps(record)) == record
    assert set(record) == {"mean", "ci95", "per_seed", "n_test"}
    assert isinstance(accuracy_interval([np.ones(3, bool)]), EvalResult)


@pytest.mark.parametrize(("s", "n"), [(1, 120), (5, 120)])
def test_macro_f1_intervals_hold_the_truth(s: int, n: int) -> None:
    """Three unequal classes, seeds of different skill; the truth is macro-F1 on a million images."""
    share, skill = np.array([0.5, 0.3, 0.2]), np.array([1.5, 0.8, 0.3])

    def predict(rng: np.random.Generator, labels: np.ndarray, hard: np.ndarray, seeds: int) -> np.ndarray:
        right = rng.random((seeds, len(labels))) < expit(skill[labels] + hard + 0.2 * rng.normal(size=(seeds, 1)))
        return np.where(right, labels, (labels + rng.integers(1, 3, (seeds, len(labels)))) % 3)

    rng = np.random.default_rng(0)
    labels = rng.choice(3, 4000, p=share)
    truth = np.mean([metrics.macro_f1(labels, p) for p in predict(rng, labels, rng.normal(size=4000), 250)])
    held, runs = [], 40
    for run in range(runs):
        labels = rng.choice(3, n, p=share)
        outputs = predict(rng, labels, rng.normal(size=n), s)
        low, high = statistic_interval(metrics.macro_f1, labels, list(outputs), seed=run).ci95
        held.append(low <= truth <= high)
    assert np.mean(held) >= 0.93 - 4.75 * np.sqrt(0.93 * 0.07 / runs)


def test_statistic_interval_of_accuracy_agrees_with_the_closed_one() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    outputs = [np.where(rng.random(200) < 0.8, labels, (labels + 1) % 3) for _ in range(5)]
    ours = statistic_interval(metrics.accuracy, labels, outputs)
    closed = accuracy_interval([labels == output for output in outputs])
    assert ours.mean == pytest.approx(closed.mean)
    assert np.ptp(ours.ci95) == pytest.approx(np.ptp(closed.ci95), rel=0.35)
    assert ours.ci95 == statistic_interval(metrics.accuracy, labels, outputs).ci95
    assert ours.ci95 != statistic_interval(metrics.accuracy, labels, outputs, seed=1).ci95


def test_novelty_statistics_have_intervals_too() -> None:
    rng = np.random.default_rng(2)
    is_novel = np.arange(80) < 20
    scores = [rng.normal(size=80) - 1.5 * is_novel for _ in range(3)]
    result = statistic_interval(metrics.auroc, is_novel, scores)
    assert result.per_seed == pytest.approx([metrics.auroc(is_novel, s) for s in scores])
    assert 0.5 < result.ci95[0] < result.mean < result.ci95[1] < 1


def test_paired_intervals_hold_the_truth_and_are_narrower_than_unpaired() -> None:
    rng, gain, held, p_values = np.random.default_rng(0), 0.0, [], []
    for _ in range(RUNS):
        effects = 0.3 * rng.normal(size=(5, 1)) + 2 * rng.normal(size=100)
        a, b = (rng.random((5, 100)) < expit(1.5 + effects + 0.1 * rng.normal(size=(5, 1))) for _ in range(2))
        result = paired_difference(a, b)
        held.append(result.ci95[0] <= gain <= result.ci95[1])
        p_values.append(result.p_value)
        assert (result.p_value < 0.05) == (not held[-1])  # the test is the interval's own
    assert np.mean(held) >= LEAST
    assert np.ptp(result.ci95) < np.ptp(accuracy_interval(a).ci95) * 1.2


def test_the_difference_of_a_statistic_is_resampled_in_pairs() -> None:
    """Written down again: the same pictures for both in each draw, drawn within known and novel ones."""
    rng = np.random.default_rng(5)
    is_novel = np.arange(90) >= 60
    a, b = ([rng.normal(size=90) - shift * is_novel for _ in range(4)] for shift in (1.5, 1.0))
    result = statistic_difference(metrics.auroc, is_novel, a, b)
    per_seed = np.array([roc_auc_score(is_novel, -x) - roc_auc_score(is_novel, -y) for x, y in zip(a, b, strict=True)])
    assert result.per_seed == pytest.approx(per_seed)
    drawn = []
    for _ in range(500):
        rows = np.concatenate([rng.integers(0, 60, 60), rng.integers(60, 90, 30)])
        pairs = [[metrics.auroc(is_novel[rows], one[rows]) for one in pair] for pair in zip(a, b, strict=True)]
        drawn.append(np.mean([x - y for x, y in pairs]))
    images, seeds = np.var(drawn, ddof=1) * 90 / 88, per_seed.var(ddof=1) / 4
    freedom = (images + seeds) ** 2 / (images**2 / 89 + seeds**2 / 3)
    reach = stats.t.ppf(0.975, freedom) * np.sqrt(images + seeds)
    assert np.ptp(result.ci95) / 2 == pytest.approx(reach, rel=0.15)
    assert np.mean(result.ci95) == pytest.approx(result.mean) == pytest.approx(per_seed.mean())
    assert result.to_json()["p_seeds"] == sign_flip_test(per_seed)


def test_differences_of_a_statistic_hold_the_truth() -> None:
    """Two detectors as good as each other that see the same pictures, and a control that forgets the pairs."""
    rng, is_novel, held, runs = np.random.default_rng(3), np.arange(60) >= 40, [], 25
    for _ in range(runs):
        shared = rng.normal(size=60) - 1.5 * is_novel
        a, b = ([shared + 0.3 * rng.normal(size=60) for _ in range(2)] for _ in range(2))
        result = statistic_difference(metrics.auroc, is_novel, a, b)
        held.append(result.ci95[0] <= 0 <= result.ci95[1])
        assert (result.p_value < 0.05) == (not held[-1])
    assert np.mean(held) >= 0.93 - 4.75 * np.sqrt(0.93 * 0.07 / runs)
    alone = statistic_interval(metrics.auroc, is_novel, a).ci95
    assert np.ptp(result.ci95) < 0.8 * np.ptp(alone)  # unpaired it would be 1.4 of it


def test_equal_scores_do_not_prove_equality() -> None:
    is_novel = np.arange(50) >= 40
    same = [np.random.default_rng(0).normal(size=50)]
    result = statistic_difference(metrics.auroc, is_novel, same, same)
    assert (result.mean, result.p_value, result.p_seeds) == (0, 1, None)
    assert result.ci95 == pytest.approx((-1.96 / 52, 1.96 / 52), rel=1e-3)


def test_a_better_method_is_found_better() -> None:
    rng = np.random.default_rng(0)
    easy = rng.random((6, 400)) < 0.8
    better = easy | (rng.random((6, 400)) < 0.4)
    result = paired_difference(better, easy)
    assert (result.wins, result.losses, result.only_b) == (6, 0, 0)
    assert result.only_a == (better & ~easy).sum()
    assert result.ci95[0] > 0
    assert result.p_value < 1e-3
    assert result.p_seeds == pytest.approx(2 / 64)
    opposite = paired_difference(easy, better)
    assert opposite.ci95 == pytest.approx((-result.ci95[1], -result.ci95[0]))
    assert (opposite.losses, opposite.p_value) == (6, pytest.approx(result.p_value))
    assert json.loads(json.dumps(result.to_json())) == result.to_json()


@given(st.integers(0, 30), st.integers(0, 30))
def test_one_seed_takes_mcnemar(only_a: int, only_b: int) -> None:
    a = np.arange(70) < only_a
    b = np.arange(70) >= 70 - only_b
    result = paired_difference([a], [b])
    n = only_a + only_b
    exact = sum(stats.binom.pmf(k, n, 0.5) for k in range(n + 1) if min(k, n - k) <= min(only_a, only_b)) if n else 1.0
    assert result.p_value == mcnemar_test(only_a, only_b) == pytest.approx(min(1.0, exact))
    assert result.p_seeds is None


def test_equal_answers_are_no_proof_of_equality() -> None:
    same = [np.ones(100, dtype=bool)] * 3
    low, high = paired_difference(same, same).ci95
    assert -0.1 < low < 0 < high < 0.1
    assert paired_difference(same, same).p_value == 1.0
    assert paired_difference([np.array([True])], [np.array([False])]).ci95[1] == 1.0


def test_sign_flips_equal_trying_every_pattern() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, 7)
    patterns = [abs(np.dot(signs, differences)) for signs in product([-1, 1], repeat=7)]
    assert sign_flip_test(differences) == np.mean(np.array(patterns) >= abs(differences.sum()) - 1e-12)
    many = np.random.default_rng(1).normal(0.3, 1, 14)
    exact = np.mean([abs(np.dot(s, many)) >= abs(many.sum()) for s in product([-1, 1], repeat=14)])
    assert sign_flip_test(many) == pytest.approx(exact, abs=0.02)


def test_seeds_on_different_images_are_refused() -> None:
    with pytest.raises(UsageError, match=r"same n >= 1 images, got lengths \[2, 3\]"):
        accuracy_interval([np.ones(2, bool), np.ones(3, bool)])
    with pytest.raises(UsageError, match=r"same n >= 1 images, got lengths \[\]"):
        accuracy_interval([])
    with pytest.raises(UsageError, match="evaluate both on the same"):
        paired_difference([np.ones(3, bool)], [np.ones(3, bool)] * 2)
    with pytest.raises(UsageError, match="the same support sets"):
        statistic_difference(metrics.auroc, np.arange(2), [np.zeros(2)], [np.zeros(2)] * 2)
    with pytest.raises(UsageError, match="outputs for 3 images"):
        statistic_interval(metrics.accuracy, np.zeros(3, int), [np.zeros(2, int)])
