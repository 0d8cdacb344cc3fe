"""Exact Euclidean neighbours in blocks of bounded memory, and rows that are the same picture twice.

Candidates come from a float32 matrix product with a proof of what they leave out (``find_candidates``); their distances
are then taken in float64 from the differences, so that they depend on the two rows alone: not on the other rows, the
threads or the blocks. Rows for which the proof fails, as among many near-copies, go to float64, and what is left,
copies by the dozen, is measured against every distinct row: 4 ms each among 5,000 x 512, if all are distinct.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clip_fewshot.errors import UsageError
from clip_fewshot.neighbors.candidates import TILE, find_candidates, run_in_threads
from clip_fewshot.types import FloatArray, IndexArray

SPARE = 4  # candidates beyond k, plus a quarter of k: the further out, the closer together distances are
QUERY_BLOCK = 1 << 17  # numbers held at a time where distances are taken (1 MiB: cache, not memory, is what bounds it)
PAIRS = 1 << 22  # numbers held at a time where rows are compared (32 MiB)
SAME = 1e-5  # rows of unit length nearer than this are one picture: float32 batches differ by 1e-7 to 1e-6


class KNN(NamedTuple):
    """The k nearest rows of each query.

    Attributes:
        distances: (m, k) float64, ascending.
        neighbours: (m, k) row numbers; equal distances are in row order.
    """

    distances: FloatArray
    neighbours: IndexArray


def find_nearest(rows: FloatArray, queries: FloatArray, k: int) -> KNN:
    """The k nearest of (n, d) ``rows`` to each of (m, d) ``queries``, float32 or float64, all finite.

    Memory beyond the arguments: 4 (n + m) (d + 2) + 40 m k bytes and 20 MB per thread.

    Raises:
        UsageError: k is more than the rows there are.
    """
    _check(k, len(rows))
    return _proven(rows, queries, None, k)


def find_nearest_others(rows: FloatArray, k: int) -> KNN:
    """The k nearest other rows of each of (n, d) ``rows``: never itself, but its copies.

    Half of the work of :func:`find_nearest`; docs/figures/nearest_neighbours.md has the time.

    Raises:
        UsageError: k is more than the other rows there are.
    """
    _check(k, len(rows) - 1)
    return _proven(rows, rows, np.arange(len(rows)), k)


def drop_rows(found: KNN, rows: FloatArray, kept: IndexArray, k: int) -> KNN:
    """The k nearest others among ``rows[kept]`` alone, from the k or more among all ``rows``.

    Only rows that lose a neighbour are looked at again.
    """
    if len(kept) == len(rows):
        return KNN(found.distances[:, :k], found.neighbours[:, :k])
    number = np.full(len(rows), -1)
    number[kept] = np.arange(len(kept))
    distances, neighbours = found.distances[kept, :k], number[found.neighbours[kept, :k]]
    losers = np.flatnonzero((neighbours < 0).any(axis=1))
    distances[losers], neighbours[losers] = _proven(rows[kept], rows[kept[losers]], losers, k)
    return KNN(distances, neighbours)


def find_distinct(rows: FloatArray, found: KNN | None = None) -> IndexArray:
    """Numbers of the rows that no earlier row is the same as, in order; ``found``: their nearest others, if known."""
    if len(rows) < 2:
        return np.arange(len(rows))
    nearest_other = (find_nearest_others(rows, 1) if found is None else found).distances[:, 0]
    suspects = np.flatnonzero(nearest_other <= SAME)  # what a suspect is the same as is a suspect too
    return np.delete(np.arange(len(rows)), suspects[_has_earlier_copy(rows[suspects])])


def _has_earlier_copy(rows: FloatArray) -> IndexArray:
    """(n,) bool, in blocks of n^2 pairs."""
    number, copies = np.arange(len(rows)), np.zeros(len(rows), dtype=bool)
    centred = rows - rows.mean(axis=0) if len(rows) else rows
    length = np.einsum("nd,nd->n", centred, centred)
    size = max(1, PAIRS // max(1, len(rows)))
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        squared = length[block, None] + length - 2 * centred[block] @ centred.T
        copies[block] = ((squared <= SAME**2) & (number < number[block, None])).any(axis=1)
    return copies


def squared_distances(rows: FloatArray, numbers: IndexArray, queries: FloatArray) -> FloatArray:
    """(m, l) squared distances of (m, d) queries to (m, l) rows each: what orders neighbours, before any root."""
    far = np.empty(numbers.shape)
    size = max(1, QUERY_BLOCK // max(1, numbers.shape[1] * rows.shape[1]))
    for start in range(0, len(queries), size):
        block = slice(start, start + size)
        differences = rows[numbers[block]].astype(np.float64, copy=False)
        differences -= queries[block, None]
        far[block] = np.einsum("nkd,nkd->nk", differences, differences)
    return far


def _check(k: int, available: int) -> None:
    if not 1 <= k <= available:
        raise UsageError(
            expected=f"1 to {available:,} neighbours",
            got=f"{k}",
            fix="ask for fewer or bring more rows",
            where="find_nearest",
        )


def _proven(rows: FloatArray, queries: FloatArray, own: IndexArray | None, k: int) -> KNN:
    """Neighbours by the cheapest way whose result is proven, for each query; ``own``: the row it must not find."""
    available = len(rows) - (own is not None)
    wanted = min(k + SPARE + k // 4, available)
    squared, found = np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
    left = np.arange(len(queries))
    for precision in (np.float32, np.float64):
        if not len(left):
            break
        mutual = own is not None and len(left) == len(rows)
        near = find_candidates(
            rows,
            None if mutual else queries[left],
            wanted,
            own=None if own is None else own[left],
            precision=precision,
        )
        squared[left], found[left] = _ranked(rows, queries, left, near.rows[:, :k])
        if wanted == k:
            return KNN(np.sqrt(squared), found)  # they are all there is
        unsure = np.flatnonzero(near.bounds[:, k] <= squared[left, -1])
        asked = left[unsure]
        order = _ranked(rows, queries, asked, near.rows[unsure])
        squared[asked], found[asked] = order[0][:, :k], order[1][:, :k]
        proven = (near.bounds[unsure, -1] > squared[asked, -1]) | (wanted == available)
        left = asked[~proven]
    if len(left):
        squared[left], found[left] = _among_all(rows, queries[left], None if own is None else own[left], k)
    return KNN(np.sqrt(squared), found)


def _ranked(
    rows: FloatArray, queries: FloatArray, which: IndexArray, among: IndexArray
) -> tuple[FloatArray, IndexArray]:
    """(m, l) squared distances, ascending, of (m, l) candidates to ``queries[which]``, and the candidates in order."""
    squared, numbers = np.empty(among.shape), np.empty_like(among)

    def work(block: slice) -> None:
        far = squared_distances(rows, among[block], queries[which[block]])
        order = np.lexsort((among[block], far), axis=1)
        squared[block] = np.take_along_axis(far, order, axis=1)
        numbers[block] = np.take_along_axis(among[block], order, axis=1)

    run_in_threads(work, [slice(start, start + TILE) for start in range(0, len(which), TILE)])
    return squared, numbers


def _among_all(rows: FloatArray, queries: FloatArray, own: IndexArray | None, k: int) -> tuple[FloatArray, IndexArray]:
    """The same among all rows, one query at a time, each kind of row measured once however many copies it has."""
    kinds, kind = np.unique(rows, axis=0, return_inverse=True)
    squared, numbers = np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
    for i, query in enumerate(queries):
        differences = kinds - query.astype(np.float64)
        far = np.einsum("nd,nd->n", differences, differences)[kind.ravel()]
        if own is not None:
            far[own[i]] = np.inf
        numbers[i] = np.argsort(far, kind="stable")[:k]
        squared[i] = far[numbers[i]]
    return squared, numbers
