"""How sure the groups are: the method again on half of the images, many times.

The interval holds all numbers of groups that were found, in halves and in all images, and one more, for a class of
which too few images came: without it, it held the truth in .80 of draws with real flags where .90 is said, see
docs/figures/discovery.md. Halves without replacement, because the copies of a bootstrap are groups of their own
(Politis, Romano, Wolf, "Subsampling", 1999); the known classes are resampled too, because they decide as much. A
group's stability is the mean overlap (Jaccard) with the part of the half that is most like it (Hennig, "Cluster-wise
assessment of cluster stability", 2007): above .85 it is sure, below .6 do not trust it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clip_fewshot.discovery.base import Discoverer
from clip_fewshot.discovery.parts import number_by_size
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

HALVES = 12  # 30 hold the truth as often, without their extremes, and take as much longer
MOST_IN_HALF = 500  # images of a half, or
FEW_OF_GROUP = 50  # times the groups, if that is more: fewer of a group are none in a half; and
FEWEST_HALVES = 8  # then
UNSEEN_CLASSES = 1  # class that too few images show


class Half(NamedTuple):
    """(m,) rows of a half of the images, their groups numbered from 0, -1 in none, and how many groups they are."""

    rows: IndexArray
    labels: LabelArray
    number: int


def draw_halves(groups: int, rows: FloatArray, method: Discoverer, smallest: int, seed: int) -> list[Half]:
    """What the method finds in halves of (n, d) rows, where all have ``groups``; no halves of fewer than 3 rows."""
    n, rng = len(rows), generator(seed, "halves")
    size = min(-(-n // 2), max(MOST_IN_HALF, FEW_OF_GROUP * groups))
    halves = []
    for _ in range(max(FEWEST_HALVES, HALVES * MOST_IN_HALF // max(size, MOST_IN_HALF)) if size > 1 else 0):
        half = np.sort(rng.permutation(n)[:size])
        parts = method.resample(rng).part(rows[half]).labels
        halves.append(Half(half, *number_by_size(parts, max(-(-smallest * size // n), min(2, size)))))
    return halves


def find_interval(groups: int, halves: list[Half]) -> tuple[int, int]:
    """(low, high) number of groups; ``groups`` were found in all images."""
    numbers = [groups, *(half.number for half in halves)]
    return min(numbers), max(numbers) + (UNSEEN_CLASSES if halves else 0)


def measure_stability(found: LabelArray, groups: int, halves: list[Half]) -> tuple[float, ...]:
    """The stability in [0, 1] of each of ``groups``, which (n,) ``found`` numbers from 0; 0 where no half shows it."""
    overlaps = np.array([measure_overlap(found[half.rows], half.labels, groups) for half in halves])
    if not halves:
        return (1.0,) * groups
    measured = [column[~np.isnan(column)] for column in overlaps.T]
    return tuple(float(column.mean()) if len(column) else 0.0 for column in measured)


def measure_overlap(groups: LabelArray, parts: LabelArray, n_groups: int) -> FloatArray:
    """(n_groups,) Jaccard index of each group with the part most like it; NaN for one that is not there at all."""
    best = np.full(n_groups, np.nan)
    for group in range(n_groups):
        own = groups == group
        if own.any():
            kinds = [parts == part for part in np.unique(parts[own]) if part >= 0]
            best[group] = max(((own & kind).sum() / (own | kind).sum() for kind in kinds), default=0.0)
    return best
