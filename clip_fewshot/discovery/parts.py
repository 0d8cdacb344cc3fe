"""From parts of a tree to groups that are reported."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from clip_fewshot.types import BoolArray, FloatArray, LabelArray


def drop_known(parts: LabelArray, rows: FloatArray, means: FloatArray, nearer: float = 1.0) -> LabelArray:
    """Dissolve (to -1) the parts most of whose rows lie no nearer to their own centre than to some known class.

    They are false alarms, which have in common to be no new class. The own centre is that of the other members, for
    a member draws the centre to itself: by the plain one 15 to 60 false alarms alone made 3 to 4 groups.

    Args:
        nearer: the own centre has to be nearer than this share of the squared distance to the known one.
    """
    to_known = cdist(rows, means, "sqeuclidean").min(axis=1)
    order = np.argsort(parts, kind="stable")
    left = parts.copy()
    for members in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        own, n = rows[members] - rows[members].mean(axis=0), len(members)
        to_own = (own**2).sum(axis=1) * (n / max(n - 1, 1)) ** 2
        if np.median(to_own - nearer * to_known[members]) > -1e-12:
            left[members] = -1
    return left


def number_by_size(parts: LabelArray, smallest: int) -> tuple[LabelArray, int]:
    """Renumber parts 0, 1, ... from the largest down; -1 stays, and those below ``smallest`` become it."""
    names, of, counts = np.unique(parts, return_inverse=True, return_counts=True)
    counts[names < 0] = 0
    order = np.argsort(-counts, kind="stable")
    number = np.full(len(names), -1, dtype=np.int64)
    kept = order[counts[order] >= max(smallest, 1)]
    number[kept] = np.arange(len(kept))
    return number[of], len(kept)


def find_nearest_to_centre(points: FloatArray, members: BoolArray) -> int:
    """The row of ``members`` nearest to their mean."""
    rows = np.flatnonzero(members)
    return int(rows[np.argmin(np.linalg.norm(points[rows] - points[rows].mean(axis=0), axis=1))])
