"""How sure the groups are: the method again on half of the images, many times.

The interval holds the numbers of groups that were found, less the extreme twentieth at either end, and the one found
in all images. Halves without replacement, because the copies of a bootstrap are groups of their own (Politis, Romano,
Wolf, "Subsampling", 1999); the known classes are resampled too, because they decide as much. A group's stability is
the mean overlap (Jaccard) with the part of the half that is most like it (Hennig, "Cluster-wise assessment of cluster
stability", 2007): above .85 it is sure, below .6 do not trust it.
"""

from __future__ import annotations

import numpy as np

from clip_fewshot.discovery.base import Discoverer
from clip_fewshot.discovery.parts import number_by_size
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, LabelArray

STABILITY_LEVEL = 0.9
HALVES = 30
MOST_IN_HALF = 500  # images of a half, or
FEW_OF_GROUP = 50  # times the groups, if that is more: fewer of a group are none in a half; and
FEWEST_HALVES = 8  # then


def judge_groups(
    found: LabelArray, groups: int, rows: FloatArray, method: Discoverer, smallest: int, seed: int
) -> Judgement:
    """(interval, stability of each group) of ``groups`` that a method found in (n, d) rows."""
    n, rng = len(rows), generator(seed, "halves")
    size = min(-(-n // 2), max(MOST_IN_HALF, FEW_OF_GROUP * groups))
    halves = max(FEWEST_HALVES, HALVES * MOST_IN_HALF // max(size, MOST_IN_HALF))
    if size < 2:
        return (groups, groups), (1.0,) * groups
    numbers, overlaps = [], np.zeros((halves, groups))
    for i in range(halves):
        half = np.sort(rng.permutation(n)[:size])
        parts = method.resample(rng).part(rows[half]).labels
        labels, number = number_by_size(parts, max(-(-smallest * size // n), min(2, size)))
        numbers.append(number)
        overlaps[i] = measure_overlap(found[half], labels, groups)
    low, high = np.quantile(
        numbers, [(1 - STABILITY_LEVEL) / 2, (1 + STABILITY_LEVEL) / 2], method="inverted_cdf"
    ).astype(int)
    measured = [float(column[~np.isnan(column)].mean()) if not np.isnan(column).all() else 0.0 for column in overlaps.T]
    return (min(int(low), groups), max(int(high), groups)), tuple(measured)


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
