"""Exact Euclidean neighbours in blocks of bounded memory, and rows that are the same picture twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clip_fewshot.types import FloatArray, IndexArray

BLOCK = 1 << 22  # numbers held at a time (32 MiB)
SAME = 1e-5  # rows of unit length nearer than this are one picture: float32 batches differ by 1e-7 to 1e-6


def nearest(rows: FloatArray, queries: FloatArray, k: int) -> tuple[FloatArray, IndexArray]:
    """(m, k) distances, ascending, and row numbers of the k nearest of (n, d) ``rows`` to (m, d) ``queries``.

    Rows are float64, so the distances |q|^2 + |r|^2 - 2 q.r of unit rows are good to 1e-8 absolutely and to 1e-12
    relatively above 0.01. Equal distances are in row order.
    """
    distances, found = np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
    for block, squared in _squared_distances(rows, queries):
        candidates = np.sort(np.argpartition(squared, k - 1, axis=1)[:, :k], axis=1)
        near = np.take_along_axis(squared, candidates, axis=1)
        order = np.argsort(near, axis=1, kind="stable")
        distances[block] = np.sqrt(np.maximum(np.take_along_axis(near, order, axis=1), 0))
        found[block] = np.take_along_axis(candidates, order, axis=1)
    return distances, found


def distinct(rows: FloatArray) -> IndexArray:
    """Numbers of the rows that no earlier row is the same as, in order."""
    number = np.arange(len(rows))
    keep = [
        ~((squared <= SAME**2) & (number < number[block, None])).any(axis=1)
        for block, squared in _squared_distances(rows, rows)
    ]
    return np.flatnonzero(np.concatenate(keep))


def _squared_distances(rows: FloatArray, queries: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
    """(block of queries, its (b, n) squared distances), centred first: a shared mean only costs digits."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    length = np.einsum("nd,nd->n", centred, centred)
    size = max(1, BLOCK // len(rows))
    for start in range(0, len(queries), size):
        block = slice(start, min(start + size, len(queries)))
        asked = queries[block] - mean
        yield block, np.einsum("nd,nd->n", asked, asked)[:, None] + length - 2 * asked @ centred.T
