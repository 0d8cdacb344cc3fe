"""Average linkage against SciPy and its definition; the learned height against trying every one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, is_monotonic, is_valid_linkage, linkage
from scipy.spatial.distance import pdist
from sklearn.preprocessing import normalize

from clip_fewshot.discovery import average_tree as trees
from clip_fewshot.discovery import discover_classes
from clip_fewshot.discovery.average import best_cut
from clip_fewshot.discovery.average_tree import average_tree
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation import clustering
from tests.discovery.planted import planted


def rows(n: int, seed: int, d: int = 6) -> np.ndarray:
    return normalize(np.random.default_rng(seed).normal(size=(n, d)) + 1)


def test_the_tree_is_scipy_s_of_cosine_distances() -> None:
    X = rows(60, 0)
    assert np.allclose(average_tree(X), linkage(pdist(X, "cosine"), "average"))


@pytest.mark.parametrize("seed", range(4))
def test_groups_stand_for_their_rows_exactly(seed: int) -> None:
    """The chain over groups of one row each is average linkage itself."""
    X = rows(40, seed)
    a, b, height = trees._over_groups(np.arange(40), X, np.ones(40))
    assert np.allclose(trees.arrange_for_scipy(40, [(a, b, height)]), linkage(pdist(X, "cosine"), "average"))


def test_many_rows_are_grouped_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    X, _, reference = planted([120, 90, 60], strays=20)
    plain = discover_classes(X, reference=reference)
    monkeypatch.setattr(trees, "DENSE_AVERAGE_ROWS", 100)
    monkeypatch.setattr(trees, "MOST_GROUPS", 60)
    found = discover_classes(X, reference=reference)
    assert is_valid_linkage(found.linkage)
    assert is_monotonic(found.linkage)
    assert found.n_clusters == plain.n_clusters == 3
    assert clustering.ari(plain.labels, found.labels) > 0.95
    # The height of the top is the mean distance between its two sides, whatever made the lower mergers.
    unit, sides = normalize(X), fcluster(found.linkage, 2, "maxclust")
    apart = 1 - unit[sides == 1] @ unit[sides == 2].T
    assert found.linkage[-1, 2] == pytest.approx(apart.mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 30))
def test_the_height_is_the_best_of_all(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    X, classes = rows(n, seed), np.append([0, 1], rng.integers(0, 3, n - 2))
    tree = average_tree(X)
    got = clustering.ari(classes, fcluster(tree, best_cut(tree, classes), "distance"))
    assert got == pytest.approx(max(clustering.ari(classes, fcluster(tree, h, "distance")) for h in tree[:, 2]))


def test_a_copy_does_not_split_the_height() -> None:
    X = np.repeat(rows(12, 3), 2, axis=0)
    classes = np.repeat(np.arange(12) % 3, 2)
    assert best_cut(average_tree(X), classes) > 1e-9


def test_it_finds_as_many_as_there_are() -> None:
    for sizes in ([30], [40, 12], [20, 30, 45], [25] * 8):
        X, labels, reference = planted(sizes, 1, strays=sum(sizes) // 10)
        found = discover_classes(X, reference=reference)
        assert found.method == "average"
        assert found.cut is not None
        assert found.n_clusters == len(sizes)
        assert found.interval[0] <= len(sizes) <= found.interval[1]
        new = labels < len(sizes)
        assert clustering.clustering_accuracy(labels[new], found.labels[new]) > 0.95


def test_pictures_that_have_nothing_in_common_are_outliers() -> None:
    _, _, reference = planted([], d=64, strays=0, apart=3.0)
    scattered = np.eye(64)[:40]
    found = discover_classes(scattered, reference=reference)
    assert found.n_clusters == 0
    assert found.interval[0] == 0


def test_without_known_classes_enough_there_is_no_height() -> None:
    X, _, (known, classes) = planted([20, 20])
    single = np.unique(classes, return_index=True)[1]
    for reference in (None, (known[single], classes[single]), (known[:32], classes[:32])):
        assert discover_classes(X, reference=reference).method == "ward"
        with pytest.raises(UsageError, match="known classes of 2 images or more"):
            discover_classes(X, reference=reference, method="average")
    with pytest.raises(UsageError, match="one of ward, average, semi-supervised"):
        discover_classes(X, method="complete")
