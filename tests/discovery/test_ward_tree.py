"""Ward's tree without all pairs, against SciPy's with them."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, is_monotonic, is_valid_linkage, linkage
from sklearn.cluster import AgglomerativeClustering

from clip_fewshot.discovery import ward_tree as tree_module
from clip_fewshot.discovery.ward_tree import ward_tree
from clip_fewshot.evaluation.clustering import ari

MANY = settings(max_examples=40, deadline=None)
CUTS = (2, 3, 5, 10, 15)


def sparse(X: np.ndarray, near: int = 16) -> np.ndarray:
    """The tree by the way for many rows, with ``near`` groups on a list."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree_module, "DENSE_WARD_ROWS", 2)
        patch.setattr(tree_module, "NEIGHBOURS_KEPT", near)
        return ward_tree(X)


def clouds(seed: int, n: int, d: int, classes: int = 6, mean: float = 0.0) -> np.ndarray:
    """Classes of unequal sizes and spreads."""
    rng = np.random.default_rng(seed)
    of = np.minimum(rng.geometric(0.3, n) - 1, classes - 1)
    spread = rng.uniform(0.05, 2, classes)
    return mean + 3 * rng.normal(size=(classes, d))[of] + spread[of, None] * rng.normal(size=(n, d))


@MANY
@given(st.integers(0, 9999), st.integers(20, 150), st.sampled_from([1, 2, 15]), st.sampled_from([1, 3, 16]))
def test_the_tree_is_scipy_s(seed: int, n: int, d: int, near: int) -> None:
    """Short lists make nearly all groups be searched for again."""
    X = clouds(seed, n, d)
    found, expected = sparse(X, near), linkage(X, "ward")
    assert np.allclose(found[:, 2], expected[:, 2], rtol=1e-9)
    assert (found[:, 3] == expected[:, 3]).all()
    for k in CUTS:
        assert ari(fcluster(found, k, "maxclust"), fcluster(expected, k, "maxclust")) == 1


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_the_partition_is_scikit_learn_s(mean: float) -> None:
    X = clouds(0, 2500, 32, classes=20, mean=mean)
    found = fcluster(ward_tree(X), 20, "maxclust")  # more rows than DENSE_ROWS
    assert ari(AgglomerativeClustering(20, linkage="ward").fit_predict(X), found) == 1


def test_both_ways_agree_where_one_ends_and_the_other_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    X = clouds(1, tree_module.DENSE_WARD_ROWS, 8)
    assert np.allclose(ward_tree(X), linkage(X, "ward"), rtol=1e-9)
    monkeypatch.setattr(tree_module, "DENSE_WARD_ROWS", len(X) - 1)
    assert np.allclose(ward_tree(X)[:, 2:], linkage(X, "ward")[:, 2:], rtol=1e-9)


@MANY
@given(st.integers(0, 9999), st.integers(1, 60))
def test_copies_are_merged_first_and_count_as_often_as_they_are_there(seed: int, kinds: int) -> None:
    rng = np.random.default_rng(seed)
    X = clouds(seed, kinds, 4)[rng.integers(0, kinds, 80)]
    found, expected = sparse(X, 5), linkage(X, "ward")
    assert is_valid_linkage(found)
    assert np.allclose(found[:, 2], expected[:, 2], rtol=1e-9, atol=1e-12)
    n_copies = len(X) - len(np.unique(X, axis=0))
    assert (found[:n_copies, 2] == 0).all()


@MANY
@given(st.integers(0, 9999), st.sampled_from(["grid", "equal", "hub", "jitter"]))
@example(1116, "jitter")
def test_with_ties_the_tree_is_still_one_of_ward_s(seed: int, kind: str) -> None:
    """Which of equal pairs goes first is free, and changes what follows; each merger must be of a nearest pair."""
    rng = np.random.default_rng(seed)
    X = {
        "grid": rng.integers(0, 3, size=(60, 3)).astype(float),
        "equal": np.eye(40),
        "hub": np.concatenate([np.zeros((1, 40)), np.eye(40)]),
        "jitter": np.eye(8)[rng.integers(0, 8, 50)] + 1e-9 * rng.normal(size=(50, 8)),
    }[kind]
    tree = sparse(X, 4)
    assert is_valid_linkage(tree)
    assert is_monotonic(tree)
    _check_every_merger(X, tree)
    scatter = ((X - X.mean(axis=0)) ** 2).sum()
    assert (tree[:, 2] ** 2).sum() / 2 == pytest.approx(scatter)


def _check_every_merger(X: np.ndarray, tree: np.ndarray) -> None:
    """Go up the tree with all pairs in view: the merged one is never farther apart than the nearest of all."""
    centres, sizes = dict(enumerate(X)), dict.fromkeys(range(len(X)), 1)
    for step, (a, b, height, size) in enumerate(tree):
        names = list(centres)
        C, s = np.array([centres[i] for i in names]), np.array([sizes[i] for i in names])
        squared = ((C[:, None] - C[None]) ** 2).sum(axis=2) * 2 * s[:, None] * s / (s[:, None] + s)
        np.fill_diagonal(squared, np.inf)
        assert height == pytest.approx(np.sqrt(squared.min()), rel=1e-6, abs=1e-12)
        p, q = sizes.pop(a), sizes.pop(b)
        assert height == pytest.approx(np.sqrt(squared[names.index(a), names.index(b)]), rel=1e-6, abs=1e-12)
        centres[len(X) + step] = (p * centres.pop(a) + q * centres.pop(b)) / (p + q)
        sizes[len(X) + step] = p + q
        assert size == p + q


def test_float32_is_taken_as_it_is() -> None:
    X = clouds(0, 200, 6).astype(np.float32)
    assert np.allclose(sparse(X)[:, 2], linkage(X.astype(np.float64), "ward")[:, 2], rtol=1e-9)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_hardly_any_rows(n: int) -> None:
    assert ward_tree(np.arange(3.0 * n).reshape(n, 3)).shape == (max(n - 1, 0), 4)


def test_memory_grows_with_the_rows_and_not_with_their_pairs() -> None:
    X = clouds(0, 6000, 16)
    tracemalloc.start()
    ward_tree(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * X.size + 1000 * len(X) + 40e6  # two threads' tiles and what they select
    assert peak < 4 * len(X) ** 2 / 2  # half of what the distances alone would take


@pytest.mark.slow
def test_fifty_thousand_rows_fit_in_four_gibibytes() -> None:
    """The process as a whole, its libraries and data included."""
    code = (
        "import resource, numpy as np; from clip_fewshot.discovery.ward_tree import ward_tree;"
        "rng = np.random.default_rng(0); c = rng.normal(size=(50, 512)).astype('f');"
        "X = c[rng.integers(0, 50, 50_000)] + 1.5 * rng.standard_normal((50_000, 512), dtype='f');"
        "assert ward_tree(X).shape == (49_999, 4); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 4 * 2**20  # KiB
