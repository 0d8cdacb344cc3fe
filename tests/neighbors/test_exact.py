"""Neighbours against sorting all distances, on data made to break float32; the proof; who is asked when it fails."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from clip_fewshot.errors import UsageError
from clip_fewshot.neighbors import candidates as candidates_module
from clip_fewshot.neighbors import exact as neighbours_module
from clip_fewshot.neighbors.candidates import find_candidates
from clip_fewshot.neighbors.exact import drop_rows, find_distinct, find_nearest, find_nearest_others, squared_distances

MANY = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 9999)
TILES = st.sampled_from([4, 16, 1024])
KINDS = [
    "plain",
    "mean",
    "copies",
    "near",
    "frames",
    "constant",
    "grid",
    "outlier",
    "underflow",
    "tiny",
    "huge",
    "classes",
    "float32",
]


def draw(kind: str, seed: int, n: int = 60, d: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return {
        "plain": lambda: X,
        "mean": lambda: X + 1e5,
        "copies": lambda: X[rng.integers(0, 4, n)],
        "near": lambda: X[rng.integers(0, 3, n)] + 1e-7 * X,
        "frames": lambda: X[rng.integers(0, 3, n)] + 1e-4 * X,
        "constant": lambda: np.ones((n, d)),
        "grid": lambda: rng.integers(0, 3, (n, d)).astype(float),
        "outlier": lambda: X * np.where(np.arange(n) == 7, 1e9, 1.0)[:, None],
        "underflow": lambda: np.concatenate([X[2:], 1e21 * X[:1], -1e21 * X[:1]]),  # the mean stays near the others
        "tiny": lambda: 1e-25 * X,
        "huge": lambda: 1e30 * X,
        "classes": lambda: X + 3 * (np.arange(n) // 10)[:, None],
        "float32": lambda: (X + 100).astype(np.float32),
    }[kind]()


def all_squared(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """By the library's measure, which promises the same bytes for the same two rows; it is right within rounding."""
    squared = squared_distances(rows, np.tile(np.arange(len(rows)), (len(queries), 1)), queries)
    differences = rows.astype(np.float64)[None] - queries.astype(np.float64)[:, None]
    np.testing.assert_allclose(squared, (differences**2).sum(axis=2), rtol=1e-14)  # a sum of d = 5 squares
    return squared


def by_sorting(squared: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(squared, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.take_along_axis(squared, order, axis=1)), order


@pytest.fixture(autouse=True)
def _whole_tiles_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (candidates_module, neighbours_module):
        monkeypatch.setattr(module, "TILE", module.TILE)


def tile(size: int) -> None:
    candidates_module.TILE = neighbours_module.TILE = size


@MANY
@given(st.sampled_from(KINDS), SEEDS, TILES, st.integers(1, 59))
def test_each_row_among_the_others_equals_sorting_all(kind: str, seed: int, size: int, k: int) -> None:
    tile(size)
    rows = draw(kind, seed)
    squared = all_squared(rows, rows)
    np.fill_diagonal(squared, np.inf)
    distances, found = find_nearest_others(rows, k)
    expected, order = by_sorting(squared, k)
    assert (found == order).all()
    assert distances.tobytes() == expected.tobytes()


@MANY
@given(st.sampled_from(KINDS), SEEDS, TILES, st.integers(1, 60))
def test_new_rows_equal_sorting_all(kind: str, seed: int, size: int, k: int) -> None:
    tile(size)
    rows = draw(kind, seed)
    queries = np.concatenate([rows[:9], 1.5 * draw(kind, seed + 1, n=20)])
    distances, found = find_nearest(rows, queries, k)
    expected, order = by_sorting(all_squared(rows, queries), k)
    assert (found == order).all()
    assert distances.tobytes() == expected.tobytes()


@MANY
@given(st.sampled_from(KINDS), SEEDS, TILES, st.sampled_from([np.float32, np.float64]), st.booleans())
def test_no_row_is_nearer_than_its_bound_says(kind: str, seed: int, size: int, precision: type, ward: bool) -> None:
    tile(size)
    rows, queries = draw(kind, seed), draw(kind, seed + 1, n=20)
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, 500, len(rows)) * 1.0, rng.integers(1, 500, len(queries)) * 1.0
    near = find_candidates(rows, queries, 6, sizes=(a, b) if ward else None, precision=precision)
    squared = all_squared(rows, queries) * (2 * a * b[:, None] / (a + b[:, None]) if ward else 1)
    slack = 1 + 1e-12  # of ``squared`` itself
    assert (np.take_along_axis(squared, near.rows, axis=1) * slack >= near.bounds).all()
    np.put_along_axis(squared, near.rows, np.inf, axis=1)
    assert (squared.min(axis=1) * slack >= near.bounds[:, -1]).all()
    assert all(len(set(row)) == 6 for row in near.rows.tolist())


@pytest.mark.parametrize(
    ("kind", "asked"),
    [("plain", ""), ("mean", ""), ("classes", ""), ("frames", "64"), ("near", "64 all"), ("copies", "64 all")],
)
def test_who_is_asked_when_the_proof_fails(kind: str, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def cheap(*args: object, precision: type, **kwargs: object) -> object:
        seen.update({"64"} if precision is np.float64 else ())
        return find_candidates(*args, precision=precision, **kwargs)

    def dear(*args: object) -> object:
        seen.add("all")
        return among_all(*args)

    among_all = neighbours_module._among_all
    monkeypatch.setattr(neighbours_module, "find_candidates", cheap)
    monkeypatch.setattr(neighbours_module, "_among_all", dear)
    find_nearest_others(draw(kind, 0, n=200, d=40), 3)
    assert seen == set(asked.split())


@MANY
@given(st.sampled_from(["plain", "grid", "copies"]), SEEDS, st.integers(1, 10))
def test_without_some_rows_equals_starting_again(kind: str, seed: int, k: int) -> None:
    rows = draw(kind, seed)
    kept = np.flatnonzero(np.random.default_rng(seed).random(len(rows)) < 0.7)
    found, expected = drop_rows(find_nearest_others(rows, k + 3), rows, kept, k), find_nearest_others(rows[kept], k)
    assert found.neighbours.tobytes() == expected.neighbours.tobytes()
    assert found.distances.tobytes() == expected.distances.tobytes()


def test_threads_and_company_leave_every_byte_alone() -> None:
    rows = draw("plain", 0, n=2500, d=24)  # more than one tile
    with threadpool_limits(1, user_api="blas"):
        alone = find_nearest_others(rows, 9)
    with threadpool_limits(4, user_api="blas"):
        shared = find_nearest_others(rows, 9)
    assert alone.distances.tobytes() == shared.distances.tobytes()
    assert alone.neighbours.tobytes() == shared.neighbours.tobytes()
    one = find_nearest(rows, rows[[1234]], 9)
    assert one.distances[0].tobytes() == find_nearest(rows, rows[1200:1300], 9).distances[34].tobytes()


def test_memory_grows_with_the_rows_and_not_with_their_pairs() -> None:
    def peak(n: int) -> int:
        rows = draw("plain", 0, n=n, d=8)
        tracemalloc.start()
        find_nearest_others(rows, 5)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    assert peak(8000) - peak(4000) < 4000 * (4 * 10 + 60 * 12)
    assert peak(8000) < 4 * 8000**2 / 4


@pytest.mark.parametrize(("k", "among"), [(0, 4), (5, 4)])
def test_more_neighbours_than_rows_are_refused(k: int, among: int) -> None:
    rows = draw("plain", 0, n=4)
    with pytest.raises(UsageError, match=f"1 to {among} neighbours, got {k}"):
        find_nearest(rows, rows, k)
    with pytest.raises(UsageError, match="1 to 3 neighbours"):
        find_nearest_others(rows, 4)


@pytest.mark.parametrize("pairs", [1, 1 << 22])
def test_distinct_keeps_the_first_of_each(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours_module, "PAIRS", pairs)
    rows = np.array([[1.0, 0], [0, 1], [1, 1e-7], [1, 1e-3], [0, 1]])
    assert list(find_distinct(rows)) == list(find_distinct(rows, find_nearest_others(rows, 2))) == [0, 1, 3]
    assert list(find_distinct(rows[:1])) == [0]
