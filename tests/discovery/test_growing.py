"""Groups grow as they would have been found at once, and the tree stays one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import is_valid_linkage, linkage

from clip_fewshot.discovery.growing import add_leaves, extend_groups
from clip_fewshot.discovery.undecided import UNDECIDED, Regrouped, discover_undecided
from clip_fewshot.evaluation.clustering import ari

KNOWN, NEW, EACH, WIDTH = 4, 4, 24, 24


def draw(seed: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, classes, p-values) of all known classes and the first ``new`` new ones: unknown or undecided only."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat(np.arange(KNOWN + new), EACH))
    rows = np.eye(KNOWN + NEW, WIDTH)[classes] + rng.normal(0, 0.1, (len(classes), WIDTH))
    p = np.where(classes < KNOWN, rng.uniform(size=len(classes)), rng.choice([0.02, 0.2], len(classes)))
    looked = p <= UNDECIDED
    return rows[looked], classes[looked], p[looked]


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, np.ndarray]:
    rng, labels = np.random.default_rng(9), np.repeat(np.arange(KNOWN), 6)
    return np.eye(KNOWN + NEW, WIDTH)[labels] + rng.normal(0, 0.1, (len(labels), WIDTH)), labels


def grown(reference: tuple[np.ndarray, np.ndarray], first: int, later: int) -> tuple[Regrouped, Regrouped, np.ndarray]:
    """(before, after, true classes of the pictures of after)."""
    (X, truth, p), (more, more_truth, more_p) = draw(0, first), draw(1, later)
    before = discover_undecided(X, p <= 0.05, p, reference)
    rows = before.rows
    unknown = np.concatenate([p[rows] <= 0.05, more_p <= 0.05])
    after = extend_groups(before.found, np.concatenate([X[rows], more]), unknown, more_p, p, reference)
    return before, after, np.concatenate([truth[rows], more_truth])[after.rows]


@pytest.mark.parametrize(("first", "later"), [(2, 2), (2, 4), (0, 2)], ids=["none new", "two new", "first ones"])
def test_groups_grow_as_if_found_at_once(reference: tuple[np.ndarray, np.ndarray], first: int, later: int) -> None:
    before, after, truth = grown(reference, first, later)
    found, new = after.found, truth >= KNOWN
    assert before.found.n_clusters == first
    assert found.n_clusters == later == len(found.stability) == len(found.exemplars)
    assert found.interval[0] <= later <= found.interval[1]
    assert new.sum() == (first + later) * EACH  # all new ones, the undecided among them, and nothing else but flags
    assert ari(truth[new], found.labels[new]) == 1
    assert (found.labels[~new] == -1).all()
    sizes = np.bincount(found.labels[found.labels >= 0])
    assert (np.diff(sizes) <= 0).all()
    assert [found.labels[row] for row in found.exemplars] == [*range(later)]
    assert found.linkage.shape == (len(after.rows) - 1, 4)


def test_pictures_of_before_stay_in_their_groups(reference: tuple[np.ndarray, np.ndarray]) -> None:
    before, after, _ = grown(reference, 2, 4)
    old = after.rows < len(before.rows)
    grouped = before.found.labels[after.rows[old]] >= 0
    assert ari(before.found.labels[after.rows[old]][grouped], after.found.labels[old][grouped]) == 1


def test_nothing_new_changes_nothing(reference: tuple[np.ndarray, np.ndarray]) -> None:
    X, _, p = draw(0, 3)
    before = discover_undecided(X, p <= 0.05, p, reference)
    none = np.empty(0)
    again = extend_groups(before.found, X[before.rows], p[before.rows] <= 0.05, none, p, reference).found
    assert np.array_equal(again.labels, before.found.labels)
    assert np.array_equal(again.linkage, before.found.linkage)


def test_a_new_leaf_hangs_beside_its_nearest() -> None:
    points = np.array([[0.0], [1.0], [5.0], [7.0], [20.0]])
    tree = add_leaves(linkage(points, "average"), np.array([4, 1, 1]))
    assert is_valid_linkage(tree)
    assert tree[:, 3].tolist() == [2, 3, 4, 2, 6, 2, 8]  # 1 with both, then 0; 2 with 3; those; 4 with its own; all
    assert np.array_equal(np.sort(tree[:, 2]), tree[:, 2])
