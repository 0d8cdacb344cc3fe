"""From parts of a tree to groups that are reported."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from clip_fewshot.types import BoolArray, FloatArray, LabelArray


def without_known(parts: LabelArray, rows: FloatArray, means: FloatArray) -> LabelArray:
    """Dissolve (to -1) the parts most of whose rows lie nearer to some known class than to their own centre.

    They are false alarms that only have in common to be no new class.
    """
    to_known = cdist(rows, means).min(axis=1)
    order = np.argsort(parts, kind="stable")
    left = parts.copy()
    for members in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        to_own = np.linalg.norm(rows[members] - rows[members].mean(axis=0), axis=1)
        if np.median(to_known[members] - to_own) < -1e-9:
            left[members] = -1
    return left


def by_size(parts: LabelArray, smallest: int) -> tuple[LabelArray, int]:
    """Renumber parts 0, 1, ... from the largest down; -1 stays, and those below ``smallest`` become it."""
    names, of, counts = np.unique(parts, return_inverse=True, return_counts=True)
    counts[names < 0] = 0
    order = np.argsort(-counts, kind="stable")
    number = np.full(len(names), -1, dtype=np.int64)
    kept = order[counts[order] >= max(smallest, 1)]
    number[kept] = np.arange(len(kept))
    return number[of], len(kept)


def nearest_to_centre(points: FloatArray, members: BoolArray) -> int:
    """The row of ``members`` nearest to their mean."""
    rows = np.flatnonzero(members)
    return int(rows[np.argmin(np.linalg.norm(points[rows] - points[rows].mean(axis=0), axis=1))])
