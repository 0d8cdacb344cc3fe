"""The tree of average linkage under cosine distance, for any number of rows.

The mean cosine distance between two groups of unit rows is one minus the dot product of their means (Sokal and
Michener, "A statistical method for evaluating systematic relationships", 1958, for the linkage). So groups can stand
for their rows, and above DENSE_ROWS the lowest mergers are Ward's, which needs no table of pairs: where rows are as
near as that, either tree joins the same few. Their heights are given in cosine distance too.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from clip_fewshot.discovery.gap import project_on_axes
from clip_fewshot.discovery.ward_tree import arrange_for_scipy, ward_tree
from clip_fewshot.types import FloatArray, IndexArray

DENSE_AVERAGE_ROWS = 5_000  # 25 million distances, 200 MB with SciPy's copy
MOST_GROUPS = 2_000  # that stand for more rows


def average_tree(rows: FloatArray) -> FloatArray:
    """(n - 1, 4) in SciPy's layout, of (n, d) rows of unit length (or zero), n >= 2.

    Heights are mean cosine distances, in [0, 2]; exact up to DENSE_ROWS rows, from GROUPS groups beyond.
    """
    if len(rows) <= DENSE_AVERAGE_ROWS:
        return np.asarray(linkage(pdist(rows, "sqeuclidean") / 2, "average"))
    low = ward_tree(project_on_axes(rows))[: len(rows) - MOST_GROUPS]
    members, centres, sizes, first = _grouped(rows, low)
    second = _over_groups(members, centres, sizes)
    a, b, height = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    return arrange_for_scipy(len(rows), [(a, b, _rising(len(rows), a, b, height))])


Joins = tuple[IndexArray, IndexArray, FloatArray]  # (p,) row that stands for the merger, row that goes, height


def _grouped(rows: FloatArray, low: FloatArray) -> tuple[IndexArray, FloatArray, FloatArray, Joins]:
    """Walk Ward's lowest mergers: the row that stands for each group left, their means and sizes; the mergers."""
    n = len(rows)
    stand, size = list(range(n)), np.ones(n)
    total: dict[int, FloatArray] = {}
    joins: list[tuple[int, int, float]] = []
    for left, right, _, count in low:
        a, b = stand[int(left)], stand[int(right)]
        sum_a, sum_b = total.pop(a, rows[a]), total.pop(b, rows[b])
        joins.append((a, b, max(1 - float(sum_a @ sum_b) / (size[a] * size[b]), 0.0)))
        total[a], size[a], size[b] = sum_a + sum_b, count, 0
        stand.append(a)
    left_over = np.flatnonzero(size)
    centres = np.array([total.get(int(i), rows[i]) / size[i] for i in left_over])
    return left_over, centres, size[left_over], _columns(joins)


def _over_groups(members: IndexArray, centres: FloatArray, sizes: FloatArray) -> Joins:
    """Average linkage of groups by their means: the nearest-neighbour chain (Murtagh, 1983), exact for this linkage."""
    far = np.maximum(1 - centres @ centres.T, 0)
    np.fill_diagonal(far, np.inf)
    sizes, chain = sizes.copy(), [0]
    joins: list[tuple[int, int, float]] = []
    while len(joins) < len(sizes) - 1:
        nearest = int(far[chain[-1]].argmin())
        if len(chain) > 1 and far[chain[-1], chain[-2]] <= far[chain[-1], nearest]:
            b, a = chain.pop(), chain.pop()
            joins.append((int(members[a]), int(members[b]), float(far[a, b])))
            far[a] = far[:, a] = (sizes[a] * far[a] + sizes[b] * far[b]) / (sizes[a] + sizes[b])
            far[b] = far[:, b] = far[a, a] = np.inf
            sizes[a] += sizes[b]
            chain = chain or [a]
        else:
            chain.append(nearest)
    return _columns(sorted(joins, key=lambda join: join[2]))


def _columns(joins: list[tuple[int, int, float]]) -> Joins:
    a, b, height = zip(*joins, strict=True)
    return np.array(a), np.array(b), np.array(height)


def _rising(n: int, a: IndexArray, b: IndexArray, height: FloatArray) -> FloatArray:
    """Heights that never fall from a merger to the one above it: Ward's order is not that of cosine distances."""
    top, risen = np.zeros(n), np.empty(len(height))
    for i, (p, q, own) in enumerate(zip(a.tolist(), b.tolist(), height.tolist(), strict=True)):
        risen[i] = top[p] = max(own, top[p], top[q])
    return risen
