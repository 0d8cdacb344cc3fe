"""Silhouettes beside the known classes: the figures by their definitions, and planted classes of many kinds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster
from sklearn.preprocessing import normalize

from clip_fewshot.discovery import discover_classes, stability
from clip_fewshot.discovery.clouds import BesideKnown, Clouds, Yardstick
from clip_fewshot.discovery.silhouette import count_tight_parts, keep_classes, measure_silhouettes, refine
from clip_fewshot.discovery.tree_cuts import TreeCuts
from clip_fewshot.discovery.ward_tree import ward_tree
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation import clustering
from tests.discovery.planted import planted


@pytest.fixture(autouse=True)
def few_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability, "HALVES", 6)


def test_the_silhouette_is_that_of_all_pairs() -> None:
    """Mean squared distances to the other members of the own group and to all of the nearest other, known or new."""
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(30, 4)), np.append(np.arange(26) % 3, [-1] * 4)
    known, classes = rng.normal(size=(12, 4)), np.arange(12) % 2
    yard = Yardstick.from_known(known, classes)
    far = ((X[:, None] - X) ** 2).sum(axis=2)
    means = np.array([[far[i, labels == k].mean() for k in range(3)] for i in range(30)])
    to_mean = ((X[:, None] - yard.known.means) ** 2).sum(axis=2) + yard.spread * (1 - 1 / 6)
    expected = np.zeros((2, 30))
    for i in range(26):
        own = far[i, labels == labels[i]].sum() / ((labels == labels[i]).sum() - 1)
        others = np.delete(means[i], labels[i]).min()
        for row, other in enumerate((others, min(others, *to_mean[i]))):
            expected[row, i] = (other - own) / max(own, other)
    found = measure_silhouettes(BesideKnown.from_points(X, yard), labels, Clouds.from_labels(X, labels))
    assert np.array(found) == pytest.approx(expected)


def test_the_gap_between_means_is_without_the_chance_of_few_members() -> None:
    rng, apart = np.random.default_rng(1), np.append(2.0, np.zeros(9))
    gaps = []
    for _ in range(400):
        few, many = rng.normal(size=(3, 10)), rng.normal(size=(20, 10)) + apart
        a, b = (Clouds.from_labels(x, np.zeros(len(x), dtype=np.int64)) for x in (few, many))
        gaps.append(a.gaps(b)[0, 0])
    assert np.mean(gaps) == pytest.approx(4, abs=4 * np.std(gaps) / 20)


def test_parts_are_as_tight_as_the_definition_says() -> None:
    X = normalize(np.random.default_rng(2).normal(size=(40, 5)))
    tree = ward_tree(X)
    cuts = TreeCuts.from_mergers(tree)
    for spread in (0.05, 0.2, 0.6, 2.0):
        fewest = next(
            k
            for k in range(1, 41)
            if k == 40
            or sum(
                ((X[p == j] - X[p == j].mean(axis=0)) ** 2).sum()
                for p in [fcluster(tree, k, "maxclust")]
                for j in set(p)
            )
            <= spread * (40 - k)
        )
        assert count_tight_parts(cuts, spread) == fewest


def test_false_alarms_go_to_their_class_and_a_small_or_loose_part_is_none() -> None:
    rng = np.random.default_rng(3)
    centres = 5 * np.eye(6)
    draw = lambda classes, spread=0.5: centres[classes] + spread * rng.normal(size=(len(classes), 6))  # noqa: E731
    known = np.repeat(np.arange(3), 8)
    yard = Yardstick.from_known(draw(known), known)
    points = np.concatenate([draw(np.repeat([3], 20)), draw(np.repeat([0], 10)), draw(np.repeat([4], 3))])
    points = np.concatenate([points, draw(np.repeat([5], 20), 2.0)])
    start = np.repeat([0, 1, 2], [30, 3, 20])
    new = BesideKnown.from_points(points, yard)
    refined = refine(new, start, 6)
    assert (refined[20:30] == -1).all()  # of class 0
    kept = keep_classes(new, refined)
    assert (kept[:20] == 0).all()
    assert (kept[20:] == -1).all()


@pytest.mark.parametrize("sizes", [[30], [40, 12], [20, 30, 45], [10] * 30, [120, 60, 40, 30, 24, 20]], ids=len)
def test_it_finds_as_many_as_there_are(sizes: list[int]) -> None:
    X, labels, reference = planted(sizes, 1, strays=sum(sizes) // 20)
    found = discover_classes(X, reference=reference)
    assert found.method == "silhouette"
    assert found.n_clusters == len(sizes)
    assert found.interval[0] <= len(sizes) <= found.interval[1]
    assert found.reason == ""
    new = labels < len(sizes)
    assert clustering.clustering_accuracy(labels[new], found.labels[new]) > 0.95


def test_a_group_is_larger_than_the_false_alarms_of_any_known_class() -> None:
    """40 of 4 classes are 10 of each, and 18 of some class in one draw of twenty."""
    rng = np.random.default_rng(4)
    means = 8 * np.eye(5, 12)
    known, classes = np.repeat(means[:4], 20, axis=0) + rng.normal(size=(80, 12)), np.repeat(np.arange(4), 20)
    yard = Yardstick.from_known(known, classes)
    alarms = means[np.arange(40) % 4] + rng.normal(size=(40, 12))
    for size, n_alarms, kept in ((8, 40, False), (8, 0, True), (25, 40, True), (3, 0, False)):
        points = np.concatenate([alarms[:n_alarms], means[4] + rng.normal(size=(size, 12))])
        labels = np.repeat([-1, 0], [n_alarms, size])
        assert bool(keep_classes(BesideKnown.from_points(points, yard), labels).max() == 0) is kept


def test_no_group_comes_with_a_reason() -> None:
    strays, _, reference = planted([], strays=30)
    assert "known class" in discover_classes(strays, reference=reference).reason
    one, _, reference = planted([30], 1)
    assert "min_cluster_size = 31" in discover_classes(one, reference=reference, min_cluster_size=31).reason


def test_without_known_classes_enough_there_is_nothing_to_compare_with() -> None:
    X, _, (known, classes) = planted([20, 20])
    single = np.unique(classes, return_index=True)[1]
    for reference in (None, (known[single], classes[single]), (known[:32], classes[:32])):
        assert discover_classes(X, reference=reference).method == "ward"
        with pytest.raises(UsageError, match="known classes of 2 images or more"):
            discover_classes(X, reference=reference, method="silhouette")
    with pytest.raises(UsageError, match="one of silhouette, ward, semi-supervised"):
        discover_classes(X, method="complete")
