"""Groups that are there take in new pictures, and what fits none of them is grouped by itself.

The work is in proportion to the new pictures and to those in no group. Groups keep their members: what a person has
looked at stays. A fresh start finds what slowly grew out of sight, so it is made when the pictures that
came since are as many as those that it saw: all fresh starts together cost a constant per picture.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.preprocessing import normalize

from clip_fewshot.discovery.base import Discovery
from clip_fewshot.discovery.discover import SMALLEST, discover_classes
from clip_fewshot.discovery.known import KnownRows, as_pair
from clip_fewshot.discovery.undecided import (
    Regrouped,
    choose_group,
    drop_apart,
    estimate_prior,
    measure_known,
    measure_spread,
    number_groups,
)
from clip_fewshot.discovery.ward_tree import arrange_for_scipy
from clip_fewshot.neighbors.exact import find_nearest
from clip_fewshot.types import BoolArray, FloatArray, IndexArray, LabelArray


def extend_groups(
    before: Discovery,
    X: FloatArray,
    unknown: BoolArray,
    p_values: FloatArray,
    earlier_p: FloatArray,
    reference: tuple[FloatArray, LabelArray],
    *,
    seed: int = 0,
) -> Regrouped:
    """What :func:`discover_undecided` found, and more pictures.

    Args:
        before: over m rows, m >= 2.
        X: (m + n, d) features: those m rows, and then n new ones that are unknown or undecided.
        unknown: (m + n,) which were called unknown. p_values: (n,) of the new ones.
        earlier_p: of all pictures that the earlier ones were chosen from: they say how many known ones to expect.
        reference, seed: as of :func:`discover_undecided`.
    """
    rows, known, m = normalize(X), KnownRows.from_features(*as_pair(reference)), len(before.labels)
    prior = np.append(np.ones(m), estimate_prior(np.concatenate([earlier_p, p_values]))[len(earlier_p) :])
    labels, found = np.append(before.labels, np.full(len(X) - m, -1)), before
    _place(rows, labels, found.n_clusters, prior, known, m)
    left = np.flatnonzero((labels < 0) & (unknown | (prior < 0.5)))
    if np.count_nonzero(left >= m) >= SMALLEST:
        more = discover_classes(rows[left], reference=reference, seed=seed)
        labels[left] = np.where(more.labels < 0, -1, before.n_clusters + more.labels)
        found = _together(before, more)
        _place(rows, labels, found.n_clusters, prior, known, m)
    kept = np.flatnonzero(unknown | (labels >= 0))
    nearest = find_nearest(rows[:m], rows[kept[m:]], 1).neighbours[:, 0] if len(kept) > m else np.empty(0, np.int64)
    return Regrouped(kept, number_groups(found, rows[kept], labels[kept], add_leaves(found.linkage, nearest)))


def _place(rows: FloatArray, labels: LabelArray, count: int, prior: FloatArray, known: KnownRows, m: int) -> None:
    """Give the new rows that are in none of the groups the one where they belong, if there is one."""
    spread, new = measure_spread(known), m + np.flatnonzero(labels[m:] < 0)
    if not count or not spread.axes or not len(new):
        return
    centres = np.array([rows[labels == k].mean(axis=0) for k in range(count)])
    chosen = choose_group(rows[new], centres, measure_known(rows[new], prior[new], known, spread))
    labels[new] = drop_apart(rows[new], centres, chosen, spread)


def _together(before: Discovery, more: Discovery) -> Discovery:
    """Counts, intervals and stability of both; the groups of ``more`` come after those of ``before``."""
    low, high = (a + b for a, b in zip(before.interval, more.interval, strict=True))
    count, stability = before.n_clusters + more.n_clusters, before.stability + more.stability
    return replace(before, n_clusters=count, interval=(low, high), stability=stability)


def add_leaves(tree: FloatArray, nearest: IndexArray) -> FloatArray:
    """SciPy's tree of m rows, and n more leaves: each beside its nearest leaf, as high as that one first merges."""
    m = len(tree) + 1
    stand, first, joins = [*range(m)], np.full(m, np.inf), []
    for left, right, height, _ in tree:
        a, b = stand[int(left)], stand[int(right)]
        first[[a, b]] = np.minimum(first[[a, b]], height)
        joins.append((a, b))
        stand.append(a)
    a, b = np.array(joins, dtype=np.int64).T
    new = nearest, np.arange(m, m + len(nearest)), first[nearest]
    return arrange_for_scipy(m + len(nearest), [new, (a, b, tree[:, 2])])
