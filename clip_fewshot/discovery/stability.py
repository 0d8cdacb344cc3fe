"""How sure the groups are: the method again on half of the images, many times.

The interval holds all numbers of groups that were found, in halves and in all images, and one more, for a class of
which too few images came: without it, it held the truth in .80 of draws with real flags where .90 is said, see
docs/figures/discovery.md. Halves without replacement, because the copies of a bootstrap are groups of their own
(Politis, Romano, Wolf, "Subsampling", 1999); the known classes are resampled too, because they decide as much. A
group's stability is the mean overlap (Jaccard) with the part of the half that is most like it (Hennig, "Cluster-wise
assessment of cluster stability", 2007): above .85 it is sure, below .6 do not trust it.
"""

from __future__ import annotations

import numpy as np

from clip_fewshot.discovery.base import Discoverer
from clip_fewshot.discovery.parts import number_by_size
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, LabelArray

HALVES = 12  # 30 hold the truth as often, without their extremes, and take as much longer
MOST_IN_HALF = 500  # images of a half, or
FEW_OF_GROUP = 50  # times the groups, if that is more: fewer of a group are none in a half; and
FEWEST_HALVES = 8  # then
UNSEEN = 1  # class that too few images show


def judge_groups(
    found: LabelArray, groups: int, rows: FloatArray, method: Discoverer, smallest: int, seed: int
) -> Judgement:
    """(interval, stability of each group) of ``groups`` that a method found in (n, d) rows."""
    n, rng = len(rows), generator(seed, "halves")
    size = min(-(-n // 2), max(MOST_IN_HALF, FEW_OF_GROUP * groups))
    halves = max(FEWEST_HALVES, HALVES * MOST_IN_HALF // max(size, MOST_IN_HALF))
    if size < 2:
        return (groups, groups), (1.0,) * groups
    numbers, overlaps = [groups], np.zeros((halves, groups))
    for i in range(halves):
        half = np.sort(rng.permutation(n)[:size])
        parts = method.resample(rng).part(rows[half]).labels
        labels, number = number_by_size(parts, max(-(-smallest * size // n), min(2, size)))
        numbers.append(number)
        overlaps[i] = measure_overlap(found[half], labels, groups)
    measured = [float(column[~np.isnan(column)].mean()) if not np.isnan(column).all() else 0.0 for column in overlaps.T]
    return (min(numbers), max(numbers) + UNSEEN), tuple(measured)


Judgement = tuple[tuple[int, int], tuple[float, ...]]


def measure_overlap(groups: LabelArray, parts: LabelArray, n_groups: int) -> FloatArray:
    """(n_groups,) Jaccard index of each group with the part most like it; NaN for one that is not there at all."""
    best = np.full(n_groups, np.nan)
    for group in range(n_groups):
        own = groups == group
        if own.any():
            kinds = [parts == part for part in np.unique(parts[own]) if part >= 0]
            best[group] = max(((own & kind).sum() / (own | kind).sum() for kind in kinds), default=0.0)
    return best
