"""Intervals over support sets and test images, and paired comparisons of two methods.

The table of hits x[s, i] (support set s, test image i) is a two-way crossed sample: another draw of support sets
moves all images, another draw of images moves all support sets. Its mean has the variance

    Var = Vs / S + Vi / n + Ve / (S n)

with the components of a two-way analysis of variance (Searle, Casella, McCulloch, "Variance Components", 1992,
section 4.5). Seeds alone, or images alone, give intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from clip_fewshot.errors import UsageError
from clip_fewshot.types import BoolArray, EvalResult, FloatArray

LEVEL = 0.95


class _Spread(NamedTuple):
    """Mean of a crossed table, the variance of that mean, and its degrees of freedom."""

    mean: float
    variance: float
    df: float


def interval(correct: Sequence[BoolArray]) -> EvalResult:
    """Accuracy with its 95 % interval over support sets and test images.

    Wilson's score interval (Wilson, "Probable Inference", 1927) with the number of images replaced by the number
    that would give the same variance if all hits were independent, and Student's quantile for few support sets.
    It stays inside [0, 1] and does not collapse at 0 or 1.

    Args:
        correct: per support set (n,) which of the same n test images were classified correctly.
    """
    table = _table(correct)
    spread = _two_way(table)
    p, n = spread.mean, table.shape[1]
    independent = p * (1 - p) / spread.variance if spread.variance > 0 else float(n)
    effective = min(max(independent, 1.0), float(table.size)) if 0 < p < 1 else float(n)
    z = float(stats.t.ppf((1 + LEVEL) / 2, spread.df))
    centre = (p + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * np.sqrt(p * (1 - p) / effective + z**2 / (4 * effective**2))
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return EvalResult(p, (min(low, p), max(high, p)), tuple(table.mean(axis=1).tolist()), n)


def paired_difference(first: Sequence[BoolArray], second: Sequence[BoolArray]) -> EvalResult:
    """Accuracy of ``first`` minus that of ``second``, both on the same support sets and the same test images.

    Pairing takes out what both share (hard images, lucky support sets), so it tells apart methods whose own
    intervals overlap. All values lie in [-1, 1]; ``per_seed`` holds the difference on each support set.
    """
    a, b = _table(first), _table(second)
    if a.shape != b.shape:
        got = f"{a.shape} and {b.shape}"
        raise UsageError("two tables over the same support sets and images", got, "evaluate both alike", "difference")
    spread = _two_way(a - b)
    z = float(stats.t.ppf((1 + LEVEL) / 2, spread.df))
    # Where no image tells the two apart the variance is 0: then the most that n equal images allow.
    half = z * np.sqrt(spread.variance) if spread.variance > 0 else z**2 / (a.shape[1] + z**2)
    low, high = max(-1.0, spread.mean - half), min(1.0, spread.mean + half)
    per_seed = tuple((a - b).mean(axis=1).tolist())
    return EvalResult(spread.mean, (float(low), float(high)), per_seed, a.shape[1])


def _table(rows: Sequence[BoolArray]) -> FloatArray:
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise UsageError("hits on the same images, one row per support set", f"rows of {sorted(lengths)}", "align them")
    return np.stack([np.asarray(row, dtype=np.float64) for row in rows])


def _two_way(table: FloatArray) -> _Spread:
    """Variance of the mean of a crossed (S, n) table; degrees of freedom by Satterthwaite's rule."""
    s, n = table.shape
    mean = float(table.mean())
    by_image = float(table.mean(axis=0).var(ddof=1)) / n if n > 1 else 0.0
    if s == 1:
        return _Spread(mean, by_image, float("inf"))
    by_set = float(table.mean(axis=1).var(ddof=1)) / s
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + mean
    noise = float((rest**2).sum() / max(1, (s - 1) * (n - 1))) / (s * n)
    variance = max(by_set + by_image - noise, by_set, by_image)
    df = variance**2 / (by_set**2 / (s - 1) + by_image**2 / max(1, n - 1)) if by_set > 0 else float("inf")
    return _Spread(mean, variance, max(1.0, df))
