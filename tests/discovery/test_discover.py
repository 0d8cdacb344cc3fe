"""What discover_classes answers with each of its methods: planted classes, hardly any images, mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import is_valid_linkage

from clip_fewshot.discovery import DISCOVERERS, Discovery, discover_classes, stability
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation import clustering
from tests.discovery.planted import planted

pytestmark = pytest.mark.parametrize("method", DISCOVERERS)
X, LABELS, REFERENCE = planted([24, 18], d=32)


@pytest.fixture(autouse=True)
def few_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stability, "HALVES", 6)


def found(method: str, rows: np.ndarray = X, **options: object) -> Discovery:
    return discover_classes(rows, reference=REFERENCE, method=method, **options)


def test_it_finds_the_planted_classes_and_is_consistent(method: str) -> None:
    groups = found(method)
    assert clustering.clustering_accuracy(LABELS, groups.labels) > 0.85
    assert groups.method == method
    assert is_valid_linkage(groups.linkage)
    sizes = [int((groups.labels == k).sum()) for k in range(groups.n_clusters)]
    assert sizes == sorted(sizes, reverse=True)
    assert set(groups.labels) <= set(range(-1, groups.n_clusters))
    assert list(groups.labels[groups.exemplars]) == list(range(groups.n_clusters))
    assert groups.interval[0] <= groups.n_clusters <= groups.interval[1]
    assert len(groups.stability) == groups.n_clusters
    assert all(0 <= share <= 1 for share in groups.stability)
    assert len(groups.rises) == len(groups.needed)


def test_the_length_of_features_does_not_matter(method: str) -> None:
    assert found(method, 3.0 * X).labels.tobytes() == found(method).labels.tobytes()


def test_copies_go_together(method: str) -> None:
    twice = found(method, np.concatenate([X, X]))
    assert (twice.labels[: len(X)] == twice.labels[len(X) :]).all()
    assert np.isfinite(twice.linkage).all()


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_hardly_any_images(method: str, n: int) -> None:
    few = found(method, X[:n])
    assert few.labels.shape == (n,)
    assert few.linkage.shape == (max(n - 1, 0), 4)
    assert few.n_clusters <= n
    assert n > 1 or few.n_clusters == n == few.interval[0] == few.interval[1]


def test_constant_features_are_one_group(method: str) -> None:
    constant = np.repeat(X[:1], 9, axis=0)
    groups = found(method, constant)
    # k-means with known images needs no centre of its own for one more place.
    assert groups.n_clusters == (0 if method == "semi-supervised" else 1)
    assert len(set(groups.labels)) == 1
    at_zero = found(method, np.zeros((6, X.shape[1])))
    assert np.isfinite(at_zero.linkage).all()


def test_all_alike_may_be_known_too(method: str) -> None:
    same = np.ones((12, 5))
    groups = discover_classes(same, reference=(same, np.arange(12) % 3), method=method)
    assert groups.n_clusters <= 1
    assert len(set(groups.labels)) == 1


def test_one_class_is_an_answer(method: str) -> None:
    one, _, reference = planted([50], d=32, apart=3.0)
    seeds = range(4 if method == "semi-supervised" else 1)  # its number is the best of few that were tried
    answers = [discover_classes(one, reference=reference, method=method, seed=seed) for seed in seeds]
    single = [groups for groups in answers if groups.n_clusters == 1]
    assert single
    assert (single[0].labels == 0).mean() > 0.8


def test_false_alarms_alone_are_no_group(method: str) -> None:
    strays, _, reference = planted([], d=32, strays=40, apart=3.0)
    groups = discover_classes(strays, reference=reference, method=method)
    assert groups.n_clusters == 0
    assert (groups.labels == -1).all()
    assert len(groups.exemplars) == len(groups.stability) == 0


def test_a_seed_gives_the_same_bytes_and_leaves_global_state_alone(method: str) -> None:
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    first, second = found(method, seed=7), found(method, seed=7)
    assert first.labels.tobytes() == second.labels.tobytes()
    assert (first.interval, first.stability) == (second.interval, second.stability)
    assert (np.random.get_state()[1] == state).all()


def test_a_group_that_is_there_is_more_stable_than_one_that_is_not(method: str) -> None:
    clear, _, reference = planted([30, 30], d=32, apart=3.0)
    noise = np.random.default_rng(3).normal(size=(60, 32)) + clear.mean(axis=0)
    groups = discover_classes(clear, reference=reference, method=method)
    blurred = discover_classes(noise, reference=reference, method=method, min_cluster_size=2)
    assert method == "semi-supervised" or min(groups.stability) > 0.9  # its number of groups varies
    assert blurred.n_clusters <= 1 or min(blurred.stability) < min(groups.stability)


def test_mistakes_are_explained(method: str) -> None:
    broken = X.copy()
    broken[3, 2] = np.nan
    with pytest.raises(UsageError, match="NaN or infinity in row 3"):
        found(method, broken)
    with pytest.raises(UsageError, match="NaN or infinity in row 3"):
        discover_classes(X, reference=(broken, LABELS), method=method)
    with pytest.raises(UsageError, match=f"{len(X)} features and 1 labels"):
        discover_classes(X, reference=(X, LABELS[:1]), method=method)


def test_an_unknown_name_lists_the_known_ones(method: str) -> None:
    with pytest.raises(UsageError, match=rf"{method}.* got 'x{method}'"):
        found(f"x{method}")


def test_a_class_without_the_methods_is_refused_by_the_name_of_the_first(method: str) -> None:
    class Renamed(DISCOVERERS[method]):  # type: ignore[misc]
        resampled = None

    with pytest.raises(UsageError, match="Renamed: method resampled is missing"):
        discover_classes(X, reference=REFERENCE, method=Renamed)
