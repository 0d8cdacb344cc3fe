"""Rows that lie so near to each other that they are the same thing twice, though no byte need be equal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clip_fewshot.neighbors.exact import find_nearest
from clip_fewshot.types import FloatArray, IndexArray

REACH = 10  # neighbours looked at: of more copies than these the nearest are found
NEAR_SHARE = 0.22  # of the distance at which a row usually has REACH others
GREATEST = 0.316  # and at most this far on the unit sphere: a cosine of .95


class NearCopies(NamedTuple):
    """Pairs of rows, each once, nearest first.

    Attributes:
        first, second: (p,) row numbers, first < second.
        similarity: (p,) cosines in [-1, 1].
    """

    first: IndexArray
    second: IndexArray
    similarity: FloatArray


def find_near_copies(rows: FloatArray, views: FloatArray | None = None) -> NearCopies:
    """The pairs of (n, d) unit ``rows`` that are much nearer than rows of this set usually are.

    A limit that holds for every set does not exist: two scans of one digit are nearer than a photo and its cropped
    copy. Nor is it the distance to the nearest row, which is 0 in a set of copies: that to the tenth stands for it.

    Args:
        views: (n, d) the same rows seen otherwise, such as mirrored: a pair counts where one is like the other's view.
    """
    k = min(REACH + 1, len(rows))
    if k < 2:
        return NearCopies(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    plain = find_nearest(rows, rows, k)
    limit = min(GREATEST, NEAR_SHARE * float(np.median(plain.distances[:, -1])))
    best: dict[tuple[int, int], float] = {}
    for found in (plain, *([] if views is None else [find_nearest(rows, views, k)])):
        for i, place in np.argwhere(found.distances <= limit):
            j, far = int(found.neighbours[i, place]), float(found.distances[i, place])
            if i != j:
                pair = (min(int(i), j), max(int(i), j))
                best[pair] = min(far, best.get(pair, far))
    order = sorted(best, key=lambda pair: (best[pair], pair))
    pairs = np.array(order, np.int64).reshape(-1, 2)
    return NearCopies(pairs[:, 0], pairs[:, 1], np.array([1 - best[pair] ** 2 / 2 for pair in order]))
