"""Ward's method: groups against planted classes; the tree against SciPy; the gap against its definition."""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, is_valid_linkage, linkage
from sklearn.datasets import load_digits

from clip_fewshot import discovery
from clip_fewshot.discovery import gap, ward_tree
from clip_fewshot.discovery.gap import gap_rises, log_scatter, select_group_count
from clip_fewshot.discovery.known import KnownRows
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation import clustering
from tests.discovery.planted import planted

FEW = settings(max_examples=15, deadline=None)
discover_classes = partial(discovery.discover_classes, method="ward")


@pytest.mark.parametrize("sizes", [[30], [40, 12], [20, 30, 45], [15, 20, 25, 30, 35], [25] * 8])
def test_finds_the_planted_classes_among_strays(sizes: list[int]) -> None:
    errors, agreement = [], []
    for seed in range(4):
        X, labels, reference = planted(sizes, seed, strays=sum(sizes) // 10)
        found = discover_classes(X, reference=reference, seed=seed)
        new = labels < len(sizes)
        errors.append(abs(found.n_clusters - len(sizes)))
        agreement.append(clustering.clustering_accuracy(labels[new], found.labels[new]))
    assert max(errors) <= 1
    assert np.mean(agreement) > 0.85


def test_real_digits_two_unseen_classes() -> None:
    pixels, digit = load_digits(return_X_y=True)
    known = [c for c in range(10) if c not in (0, 6)]
    shots = np.concatenate([np.flatnonzero(digit == c)[:16] for c in known])
    unseen = np.concatenate([np.flatnonzero(digit == 0)[:40], np.flatnonzero(digit == 6)[:25]])
    strays = np.concatenate([np.flatnonzero(digit == c)[16:17] for c in known])
    rows = np.concatenate([unseen, strays])
    found = discover_classes(pixels[rows], reference=(pixels[shots], digit[shots]))
    assert found.n_clusters == 2
    assert clustering.ari(digit[unseen], found.labels[: len(unseen)]) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_the_tree_for_many_images_gives_the_same_groups(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, digit = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(digit))[:900]
    known = digit[order] < 6
    shots = order[known]
    find = lambda: discover_classes(pixels[order[~known]], reference=(pixels[shots], digit[shots]), seed=seed)  # noqa: E731
    of_all_pairs = find()
    monkeypatch.setattr(ward_tree, "DENSE_WARD_ROWS", 2)
    found = find()
    assert found.labels.tobytes() == of_all_pairs.labels.tobytes()
    assert found.n_clusters == of_all_pairs.n_clusters >= 2
    assert np.allclose(found.rises, of_all_pairs.rises, rtol=1e-9)  # logarithms of heights that agree to 1e-9
    assert np.allclose(found.linkage[:, 2], of_all_pairs.linkage[:, 2], rtol=1e-9)


def test_known_classes_make_the_estimate_better() -> None:
    sizes, with_known, alone = [40, 40, 40], [], []
    for seed in range(5):
        X, _, reference = planted(sizes, seed, apart=0.6)
        with_known.append(abs(discover_classes(X, reference=reference).n_clusters - 3))
        alone.append(abs(discover_classes(X).n_clusters - 3))
    assert sum(with_known) < sum(alone)


def test_one_class_is_an_answer_and_so_is_none() -> None:
    X, _, reference = planted([50])
    assert discover_classes(X, reference=reference).n_clusters == 1
    assert discover_classes(X).n_clusters == 1
    scattered = discover_classes(X, min_cluster_size=51)
    assert scattered.n_clusters == 0
    assert (scattered.labels == -1).all()
    assert len(scattered.exemplars) == 0


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5])
def test_hardly_any_images(n: int) -> None:
    X = np.random.default_rng(0).normal(size=(n, 8))
    found = discover_classes(X)
    assert found.labels.shape == (n,)
    assert found.n_clusters == min(n, 1)
    assert found.linkage.shape == (max(n - 1, 0), 4)
    assert list(found.labels) == [0] * n


def test_copies_and_constant_features_are_one_group_and_copies_of_known_images_none() -> None:
    for X in (np.ones((12, 5)), np.repeat(np.random.default_rng(0).normal(size=(1, 5)), 9, axis=0)):
        found = discover_classes(X)
        assert found.n_clusters == 1
        assert np.isfinite(found.linkage).all()
        assert discover_classes(X, reference=(X, np.arange(len(X)) % 3)).n_clusters == 0


@FEW
@given(st.integers(0, 999), st.integers(4, 60))
def test_a_discovery_is_consistent(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 10)) + 4 * rng.normal(size=(3, 10))[rng.integers(0, 3, n)]
    found = discover_classes(X, min_cluster_size=3, seed=seed)
    assert is_valid_linkage(found.linkage)
    sizes = [int((found.labels == k).sum()) for k in range(found.n_clusters)]
    assert sizes == sorted(sizes, reverse=True)
    assert set(found.labels) <= set(range(-1, found.n_clusters))
    assert all(size >= 3 for size in sizes)
    assert list(found.labels[found.exemplars]) == list(range(found.n_clusters))
    assert len(found.rises) == len(found.needed)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 999))
def test_relations_that_must_leave_the_groups_alone(seed: int) -> None:
    """The length of features, a rotation, the order of images, the names of known classes."""
    X, _, (known, classes) = planted([20, 15], seed, d=16)
    rng = np.random.default_rng(seed)
    turn, order = np.linalg.qr(rng.normal(size=(16, 16)))[0], rng.permutation(len(X))
    plain = discover_classes(X, reference=(known, classes))
    names = np.array(["f", "b", "c", "a", "e", "d"])
    assert (discover_classes(3 * X, reference=(0.5 * known, classes)).labels == plain.labels).all()
    assert clustering.ari(discover_classes(X @ turn, reference=(known @ turn, classes)).labels, plain.labels) == 1
    assert clustering.ari(discover_classes(X[order], reference=(known, classes)).labels, plain.labels[order]) == 1
    again = discover_classes(X, reference=(known, np.sort(names)[classes]))
    assert again.labels.tobytes() == plain.labels.tobytes()


def test_ward_s_heights_are_the_scatter_within_groups() -> None:
    points = np.random.default_rng(0).normal(size=(20, 3))
    tree = linkage(points, "ward")
    for k, value in enumerate(log_scatter(points, 10), start=1):
        groups = fcluster(tree, k, "maxclust")
        direct = sum(((points[groups == g] - points[groups == g].mean(axis=0)) ** 2).sum() for g in np.unique(groups))
        assert value == pytest.approx(np.log(direct))


def test_rises_are_small_for_a_cloud_and_large_where_classes_part() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(80, 6))
    rises, errors = gap_rises(cloud, 8, 0)
    assert len(rises) == 7
    assert (np.abs(rises) < 3 * errors).all()
    three = cloud + 8 * np.eye(6)[np.arange(80) % 3]
    rises, _ = gap_rises(three, 8, 0)
    assert rises[:2].min() > 3 * rises[2:].max()


def test_the_scaling_shrinks_what_varies_within_classes() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 3)) * [3.0, 1.0, 0.1] + 10 * rng.normal(size=(4, 3))[np.arange(400) % 4]
    known = KnownRows(rows, np.arange(400) % 4)
    scaled = rows @ known.scaling()
    within = np.concatenate([scaled[known.classes == c] - scaled[known.classes == c].mean(axis=0) for c in range(4)])
    spread = np.array([9, 1, 0.01])
    assert np.sort(np.var(within, axis=0)) == pytest.approx(np.sort(spread / (spread + spread.mean())), rel=0.2)


def test_the_surplus_of_all_splits_decides() -> None:
    count = select_group_count
    assert count(np.array([0.5, 0.5, 0.0]), np.array([0.1, 0.1, 0.1])) == 3
    assert count(np.array([0.05, 0.05, 0.9, 0.0]), np.array([0.1, 0.1, 0.1, 0.1])) == 4
    assert count(np.array([0.05, 0.05, 0.15]), np.array([0.1, 0.1, 0.1])) == 1
    assert count(np.empty(0), np.empty(0)) == 1


def test_same_seed_same_bytes_and_no_global_state() -> None:
    X, _, reference = planted([20, 20])
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    first, second = (discover_classes(X, reference=reference, seed=7) for _ in range(2))
    assert first.labels.tobytes() == second.labels.tobytes()
    assert first.rises == second.rises
    assert (np.random.get_state()[1] == state).all()


def test_nothing_about_the_unknown_images_but_their_features_can_be_passed() -> None:
    assert set(inspect.signature(discover_classes).parameters) == {
        "X",
        "reference",
        "method",
        "max_clusters",
        "min_cluster_size",
        "seed",
    }


def test_many_images_are_grouped_from_a_sample_of_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    X, labels, reference = planted([150, 150, 120], apart=0.9)
    monkeypatch.setattr(gap, "GAP_ROWS", 120)
    found = discover_classes(X, reference=reference)
    assert found.n_clusters == 3
    assert clustering.ari(labels, found.labels) > 0.9


def test_mistakes_are_explained() -> None:
    X = np.random.default_rng(0).normal(size=(9, 4))
    X[3, 2] = np.nan
    with pytest.raises(UsageError, match="NaN or infinity in row 3"):
        discover_classes(X)
    with pytest.raises(UsageError, match="max_clusters >= 1, got 0"):
        discover_classes(X, max_clusters=0)


@pytest.mark.parametrize("rows", [np.zeros((40, 8)), np.ones((40, 8)), np.repeat(np.eye(8)[:5], 8, axis=0)])
def test_known_classes_without_a_spread_are_a_yardstick_too(rows: np.ndarray) -> None:
    reference = (rows, np.repeat(np.arange(5), 8))
    found = discover_classes(np.eye(8)[[5] * 6 + [6] * 6], reference=reference, method="ward")
    assert set(found.labels) <= {-1, 0, 1}
