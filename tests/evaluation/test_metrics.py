"""Each metric against scikit-learn, SciPy or a brute-force twin."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation import clustering, metrics

SEEDS = st.integers(0, 10_000)
MANY = settings(max_examples=60, deadline=None)


def draw(seed: int, n: int = 60, c: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(1, c + 1), n)
    return labels, np.where(rng.random(n) < 0.6, labels, rng.integers(0, c, n))


def novelty(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Known and novel scores with ties."""
    rng = np.random.default_rng(seed)
    is_novel = np.append(rng.random(40) < 0.4, [True, False])
    scores = rng.normal(size=42) - is_novel
    return is_novel, np.round(scores, int(rng.integers(0, 4)))


@MANY
@given(SEEDS)
def test_classification_equals_scikit_learn(seed: int) -> None:
    labels, guess = draw(seed)
    assert metrics.accuracy(labels, guess) == oracle.accuracy_score(labels, guess)
    assert np.isclose(metrics.macro_f1(labels, guess), oracle.f1_score(labels, guess, average="macro"))
    assert np.isclose(metrics.weighted_f1(labels, guess), oracle.f1_score(labels, guess, average="weighted"))
    table = oracle.confusion_matrix(labels, guess, labels=range(5))
    assert (metrics.confusion_matrix(labels, guess, 5) == table).all()
    support = table.sum(axis=1)
    recall = np.diag(table)[support > 0] / support[support > 0]
    assert np.isclose(metrics.balanced_accuracy(labels, guess), recall.mean())


@MANY
@given(SEEDS)
def test_per_class_table_equals_scikit_learn(seed: int) -> None:
    labels, guess = draw(seed)
    expected = oracle.precision_recall_fscore_support(labels, guess, labels=range(5), zero_division=0.0)
    assert np.allclose(np.array(metrics.per_class_table(labels, guess, 5)).T, np.array(expected, dtype=float))


def test_string_labels_count_like_numbers() -> None:
    labels, guess = draw(3)
    names = np.array(["bee", "ant", "cat", "dog", "eel"])
    assert metrics.macro_f1(names[labels], names[guess]) == pytest.approx(metrics.macro_f1(labels, guess))
    assert clustering.ari(names[labels], guess) == clustering.ari(labels, guess)


def test_confusion_matrix_refuses_a_label_outside_its_space() -> None:
    with pytest.raises(UsageError, match=r"0\.\.2.*got 0\.\.3"):
        metrics.confusion_matrix([0, 1, 3], [0, 1, 2], 3)


@MANY
@given(SEEDS, st.integers(1, 5))
def test_top_k_equals_scikit_learn_without_ties(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 6, 30), rng.normal(size=(30, 6))
    expected = oracle.top_k_accuracy_score(labels, scores, k=k, labels=range(6))
    assert np.isclose(metrics.top_k_accuracy(labels, scores, k), expected)


def test_a_model_that_cannot_tell_classes_apart_gets_no_credit() -> None:
    assert metrics.top_k_accuracy([0, 1, 2], np.zeros((3, 3)), 2) == 0
    assert metrics.recall_at_k(np.eye(4, dtype=bool), np.ones((4, 4)), 3) == 0
    assert metrics.recall_at_k(np.eye(4, dtype=bool), np.full((4, 4), np.nan), 3) == 0


@MANY
@given(SEEDS)
def test_calibration_error_equals_a_loop_over_bins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, p = rng.integers(0, 4, 50), rng.dirichlet(np.ones(4), 50)
    confidence, hit = p.max(axis=1), p.argmax(axis=1) == labels
    expected = 0.0
    for low in range(10):
        inside = (confidence > low / 10) & (confidence <= (low + 1) / 10)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - hit[inside].mean())
    assert np.isclose(metrics.expected_calibration_error(labels, p, n_bins=10), expected)


@MANY
@given(SEEDS)
def test_auroc_and_det_curve_equal_scikit_learn(seed: int) -> None:
    is_novel, scores = novelty(seed)
    assert np.isclose(metrics.auroc(is_novel, scores), oracle.roc_auc_score(is_novel, -scores))
    assert np.isclose(metrics.aupr(is_novel, scores), oracle.average_precision_score(is_novel, -scores))
    curve = metrics.det_curve(is_novel, scores)
    for threshold, false_alarm, miss in zip(*curve, strict=True):
        assert np.isclose(false_alarm, (scores[~is_novel] <= threshold).mean())
        assert np.isclose(miss, (scores[is_novel] > threshold).mean())
    assert (np.diff(curve.thresholds) > 0).all()
    assert set(curve.thresholds) == set(scores)


@MANY
@given(SEEDS)
def test_eer_and_fpr95_equal_a_search_over_thresholds(seed: int) -> None:
    is_novel, scores = novelty(seed)
    curve = metrics.det_curve(is_novel, scores)
    alarm, miss = np.append(0.0, curve.false_alarm_rate), np.append(1.0, curve.miss_rate)
    share = np.linspace(0, 1, 20_001)
    path = np.arange(len(alarm))
    fine = np.interp(share * (len(alarm) - 1), path, alarm), np.interp(share * (len(alarm) - 1), path, miss)
    crossing = np.argmin(np.abs(fine[0] - fine[1]))
    assert metrics.eer(is_novel, scores) == pytest.approx((fine[0][crossing] + fine[1][crossing]) / 2, abs=2e-3)
    expected = min((scores[~is_novel] <= t).mean() for t in scores if (scores[is_novel] <= t).mean() >= 0.95)
    assert metrics.fpr95(is_novel, scores) == pytest.approx(expected)


def test_the_sign_of_novelty() -> None:
    """Higher = more normal: perfect scores give 1, 0, 0; reversed ones 0, 1, 1."""
    is_novel = np.array([False, False, True, True])
    scores = np.array([0.9, 0.8, 0.2, 0.1])
    assert [f(is_novel, scores) for f in (metrics.auroc, metrics.eer, metrics.fpr95)] == [1.0, 0.0, 0.0]
    assert [f(is_novel, -scores) for f in (metrics.auroc, metrics.eer, metrics.fpr95)] == [0.0, 1.0, 1.0]
    assert metrics.auroc(is_novel, np.ones(4)) == metrics.eer(is_novel, np.ones(4)) == 0.5


def test_rates_at() -> None:
    assert metrics.rates_at([0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 1, 0]) == (0.25, 0.5)
    assert metrics.rates_at([False, False], [True, False]) == (0.5, None)
    assert metrics.rates_at([True], [True]) == (None, 1.0)


@pytest.mark.parametrize("function", [metrics.auroc, metrics.aupr, metrics.eer, metrics.fpr95, metrics.det_curve])
def test_novelty_metrics_want_both_kinds_and_finite_scores(function) -> None:
    with pytest.raises(UsageError, match="known ones only"):
        function([False, False], [0.1, 0.2])
    with pytest.raises(UsageError, match="finite scores, got 1"):
        function([False, True], [0.1, np.nan])


@MANY
@given(SEEDS)
def test_clustering_metrics_equal_scikit_learn(seed: int) -> None:
    labels, clusters = draw(seed, n=30)
    assert np.isclose(clustering.ari(labels, clusters), oracle.adjusted_rand_score(labels, clusters))
    assert np.isclose(clustering.nmi(labels, clusters), oracle.normalized_mutual_info_score(labels, clusters))


@MANY
@given(SEEDS)
def test_clustering_accuracy_equals_trying_every_match(seed: int) -> None:
    labels, clusters = draw(seed, n=20, c=4)
    best = max((np.array(p)[clusters] == labels).mean() for p in permutations(range(5), 5))
    assert np.isclose(clustering.clustering_accuracy(labels, clusters), best)


@MANY
@given(SEEDS)
def test_gcd_accuracy_equals_trying_every_match(seed: int) -> None:
    """One match for all points, by brute force; then how many old and new points it puts right."""
    labels, clusters = draw(seed, n=24, c=4)
    clusters = np.where(np.random.default_rng(seed).random(24) < 0.2, -1, clusters)
    old = labels < 2
    tried = [np.append(p, -9)[clusters] == labels for p in permutations(range(5), 5)]
    best = max(hit.mean() for hit in tried)
    total, on_old, on_new = clustering.gcd_accuracy(labels, clusters, old)
    assert total == pytest.approx(best)
    pairs = (
        {(hit[old].mean(), hit[~old].mean()) for hit in tried if hit.mean() == best} if 0 < old.sum() < 24 else set()
    )
    assert not pairs or min(abs(a - on_old) + abs(b - on_new) for a, b in pairs) < 1e-12


def test_gcd_accuracy_takes_names_and_counts_no_group_as_wrong() -> None:
    names = np.array(["cat", "cat", "owl", "owl"])
    assert clustering.gcd_accuracy(names, np.array(["a", "a", "b", "a"]), names == "cat") == (0.75, 1.0, 0.5)
    assert clustering.gcd_accuracy(names, np.array([-1, -1, 0, 0]), names == "cat") == (0.5, 0.0, 1.0)


def test_gcd_accuracy_lets_no_cluster_serve_two_classes() -> None:
    labels, clusters = np.array([0, 0, 0, 1, 1]), np.zeros(5, dtype=int)
    assert clustering.gcd_accuracy(labels, clusters, labels == 0) == (0.6, 1.0, 0.0)
    assert clustering.gcd_accuracy(labels, clusters, np.ones(5, bool)).new is None


def test_equal_partitions_are_perfect_whatever_their_shape() -> None:
    for partition in ([0, 0, 0], [0, 1, 2], [5, 5, 1]):
        assert clustering.ari(partition, partition) == pytest.approx(1)
        assert clustering.nmi(partition, partition) == pytest.approx(1)


@MANY
@given(SEEDS, st.integers(1, 6))
def test_recall_at_k_equals_sorting(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    near, right = rng.normal(size=(12, 6)), rng.random((12, 6)) < 0.3
    top = np.argsort(-near, axis=1)[:, :k]
    expected = np.take_along_axis(right, top, axis=1).any(axis=1).mean()
    assert np.isclose(metrics.recall_at_k(right, near, k), expected)


def test_unequal_lengths_and_nothing_are_refused() -> None:
    for truth, guess in (([1, 2], [1]), ([], []), ([[1]], [[1]])):
        with pytest.raises(UsageError, match=r"\(n,\) (arrays|labels)"):
            metrics.accuracy(truth, guess)
