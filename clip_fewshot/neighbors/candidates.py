"""A few rows among which the nearest must be, and a lower bound on the distance of all others: float32 at full speed.

-|q - r|^2 / 2 = q.r - |q|^2 / 2 - |r|^2 / 2 is one matrix product once the norms are appended to the rows. Rounding
moves it by at most (d + 8) u (|q|^2 + |r|^2), u the unit round-off, in whatever order the product is summed. So the
norms are shrunk by more than that: the result is never below the truth, and what is left out is proven to be far.
Rows are centred first, because the bound is relative to their length, and scaled, so that nothing overflows.

A value is looked at again only above a running floor, the k-th best of its row so far: one comparison a pair. Rows come
in random order, so that the floor rises at once even when the rows of a class are neighbours in the table; the first
floor is the k-th best of the maxima of groups. Where rows look for neighbours among themselves, a tile serves both its
sides, which halves the product. We rejected ``np.argpartition`` of whole rows, because it needs the whole product.

Tiles are shared among as many threads as BLAS would use, each with a BLAS of one thread, because BLAS's own threads
wait for each other: docs/figures/nearest_neighbours.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray

TILE = 1024  # rows on each side: 4 MiB of float32; 2048 is no faster
TINY = 1e-36  # more than underflow can take from the product of rows no longer than 1
FloatType = type[np.floating[Any]]
Task = TypeVar("Task")


class Candidates(NamedTuple):
    """(m, k) row numbers, and lower bounds of their squared distances, ascending; the last bounds all other rows."""

    rows: IndexArray
    bounds: FloatArray


def find_candidates(
    rows: FloatArray,
    queries: FloatArray | None,
    k: int,
    *,
    own: IndexArray | None = None,
    sizes: tuple[FloatArray, FloatArray] | None = None,
    precision: FloatType = np.float32,
) -> Candidates:
    """k candidates for the nearest of (n, d) ``rows`` to each of (m, d) ``queries``.

    Args:
        queries: None: each of the rows, among all the others.
        k: at most n, or n - 1 where a row is left out.
        own: (m,) the row to leave out for each query, None: none.
        sizes: (n,) and (m,) points that rows and queries are the centres of; distances are then Ward's,
            |q - r|^2 2 a b / (a + b). None: all are 1.
        precision: float32, or float64 for rows that float32 cannot separate.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    longest = max(_longest(points, mean) for points in (rows, queries) if points is not None)
    scale = float(np.ldexp(1.0, -int(np.frexp(longest)[1])))
    order = generator(0, "order of rows").permutation(len(rows))
    right = _Side.of(rows, order, mean, scale, precision, None if sizes is None else sizes[0])
    if queries is None:
        place = np.argsort(order)
        best = _scan(right, right, np.arange(len(rows)), k, both=True)
        return best.sorted(order, place, scale)
    everyone = np.arange(len(queries))
    left = _Side.of(queries, everyone, mean, scale, precision, None if sizes is None else sizes[1])
    best = _scan(left, right, None if own is None else np.argsort(order)[own], k, both=False)
    return best.sorted(order, everyone, scale)


def _longest(points: FloatArray, mean: FloatArray) -> float:
    return max((float(np.linalg.norm(part - mean, axis=1).max()) for part in _parts(points)), default=0.0)


def _parts(points: FloatArray) -> Sequence[FloatArray]:
    return [points[start : start + TILE] for start in range(0, len(points), TILE)]


class _Side(NamedTuple):
    """(n, d + 2) rows with 1 and -|r|^2 / 2 appended; (n,) half of one over the points that each is the centre of."""

    points: FloatArray
    halves: FloatArray | None

    @classmethod
    def of(
        cls,
        points: FloatArray,
        order: IndexArray,
        mean: FloatArray,
        scale: float,
        precision: FloatType,
        sizes: FloatArray | None,
    ) -> _Side:
        n, d = points.shape
        # More than the rounding of the product, so that a distance comes out too short and never too long.
        shrink = 1 - 2.1 * (d + 16) * float(np.finfo(precision).epsneg)
        extended = np.empty((n, d + 2), dtype=precision)
        for start in range(0, n, TILE):  # a whole centred copy in float64 would be the peak of memory
            block = slice(start, start + TILE)
            centred = (points[order[block]] - mean) * scale
            extended[block, :d], extended[block, d] = centred, 1
            extended[block, -1] = TINY - shrink / 2 * np.einsum("nd,nd->n", centred, centred)
        return cls(extended, None if sizes is None else (0.5 / sizes[order]).astype(precision))

    def times(self, left: slice, other: _Side, right: slice) -> FloatArray:
        """(a, b) minus half of the squared distances between two blocks, or more."""
        # (r, 1, -|r|^2/2) times (q, -|q|^2/2, 1) is the whole sum in one product.
        swapped = self.points[left].copy()
        swapped[:, -2:] = swapped[:, :-3:-1]
        tile: FloatArray = swapped @ other.points[right].T
        if self.halves is not None and other.halves is not None:
            tile /= self.halves[left, None] + other.halves[right]
        return tile


class _Best:
    """The k largest values so far of each of n rows, where they stood, and the least of them."""

    def __init__(self, n: int, k: int, dtype: np.dtype[Any]) -> None:
        self.values = np.full((n, k), -np.inf, dtype=dtype)
        self.rows = np.zeros((n, k), dtype=np.int32)
        self.floor = np.full(n, -np.inf, dtype=dtype)
        self.lock = Lock()

    def sorted(self, order: IndexArray, place: IndexArray, scale: float) -> Candidates:
        """What was found for the rows at ``place``, best first, in the numbers that ``order`` gives."""
        values = self.values[place]
        best = np.argsort(-values, axis=1)
        bounds = np.take_along_axis(values, best, axis=1).astype(np.float64)
        bounds *= -2 / scale**2
        return Candidates(order[np.take_along_axis(self.rows[place], best, axis=1)], bounds)

    def offer(self, block: slice, tile: FloatArray, first: int, axis: int) -> None:
        """Keep the values of a tile that may be among the k best; rows from number ``first`` on lie along ``axis``."""
        k = self.values.shape[1]
        floor = self.floor[block]
        if np.isneginf(floor[0]):
            floor = _first_floor(tile, k, axis)
        # One comparison for each pair; few values pass.
        hits = np.flatnonzero(tile > (floor[:, None] if axis else floor))
        values, (asked, found) = tile.ravel()[hits], np.divmod(hits, tile.shape[1])
        if not axis:  # hits come row by row, and the rows that ask are the columns here
            order = np.argsort(found.astype(np.uint16), kind="stable")  # radix sort
            values, asked, found = values[order], found[order], asked[order]
        with self.lock:
            self._merge(block, asked, first + found, values)

    def _merge(self, block: slice, asked: IndexArray, found: IndexArray, values: FloatArray) -> None:
        """Keep the k largest of the old and the new values; the new ones come sorted by the row they belong to."""
        if not len(asked):
            return
        old = self.values[block]
        n, k = old.shape
        # The j-th new value of a row goes to column k + j of that row, behind the k old ones.
        count = np.bincount(asked, minlength=n)
        column = k + np.arange(len(asked)) - (np.cumsum(count) - count)[asked]
        most = int(count.max())
        pool, numbers = np.full((n, k + most), -np.inf, dtype=old.dtype), np.zeros((n, k + most), dtype=np.int32)
        pool[:, :k], numbers[:, :k] = old, self.rows[block]
        pool[asked, column], numbers[asked, column] = values, found
        # The k largest of each row; the least of them is the new floor.
        best = np.argpartition(pool, most, axis=1)[:, most:]
        self.values[block] = kept = np.take_along_axis(pool, best, axis=1)
        self.rows[block] = np.take_along_axis(numbers, best, axis=1)
        self.floor[block] = kept.min(axis=1)


def _first_floor(tile: FloatArray, k: int, axis: int) -> FloatArray:
    """Just below the k-th largest of the maxima of groups along ``axis``: at least k values lie above it."""
    length = tile.shape[axis]
    # k groups have a maximum that is at least the k-th largest of the maxima, so k values reach it.
    groups = max(1, length // (4 * k))  # values in a group; three maxima in four are below the floor
    width = length // groups
    if width < k:
        return np.full(tile.shape[1 - axis], -np.inf, dtype=tile.dtype)
    if axis:
        maxima = tile[:, : groups * width].reshape(len(tile), groups, width).max(axis=1)
    else:
        maxima = tile[: groups * width].reshape(groups, width, -1).max(axis=0).T
    kth = np.partition(maxima, width - k, axis=1)[:, width - k]
    return np.asarray(np.nextafter(kth, np.asarray(-np.inf, dtype=tile.dtype)))


def _scan(left: _Side, right: _Side, own: IndexArray | None, k: int, *, both: bool) -> _Best:
    """The best k of ``right`` for each of ``left``; ``both``: they are one, and a tile serves both its sides."""
    m, n = len(left.points), len(right.points)
    best = _Best(m, k, left.points.dtype)

    def work(corner: tuple[int, int]) -> None:
        asked, offered = slice(corner[0], min(corner[0] + TILE, m)), slice(corner[1], min(corner[1] + TILE, n))
        tile = left.times(asked, right, offered)
        if own is not None:  # a row is not its own neighbour
            inside = np.flatnonzero((own[asked] >= offered.start) & (own[asked] < offered.stop))
            tile[inside, own[asked][inside] - offered.start] = -np.inf
        best.offer(asked, tile, offered.start, axis=1)
        if both and asked != offered:  # the same tile read by columns
            best.offer(offered, tile, asked.start, axis=0)

    starts = range(0, m, TILE), range(0, n, TILE)
    run_in_threads(work, [(a, b) for a in starts[0] for b in starts[1] if not both or a <= b])
    return best


def run_in_threads(work: Callable[[Task], None], tasks: Sequence[Task]) -> None:
    """Run ``work`` on each task, in as many threads as BLAS has, each with a BLAS of one thread."""
    workers = min(_blas_threads(), len(tasks)) if len(tasks) > 1 else 1
    if workers == 1:
        for task in tasks:
            work(task)
        return
    with _controller().limit(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, tasks))


@cache
def _controller() -> ThreadpoolController:
    """Finding the loaded libraries takes milliseconds, and clustering asks a hundred times."""
    return ThreadpoolController()


def _blas_threads() -> int:
    return max((library["num_threads"] for library in _controller().select(user_api="blas").info()), default=1)
