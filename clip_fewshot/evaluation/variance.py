"""Variance of a mean over support sets and test images, and the interval of a fraction that has it.

Searle, Casella, McCulloch, "Variance Components", 1992, chapter 4; see :mod:`clip_fewshot.evaluation.intervals`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit  # Student's t; scipy.stats takes half a second to import

from clip_fewshot.types import FloatArray

CONFIDENCE_LEVEL = 0.95


class Spread(NamedTuple):
    """Variance of a grand mean, and the degrees of freedom it was estimated with."""

    variance: float
    freedom: float


def mean_squares(table: FloatArray) -> FloatArray:
    """(3,) of an (S, n) table of S >= 2 sampled rows and n sampled columns: of seeds, of images, of the rest."""
    n_seeds, n = table.shape
    mean, by_seed, by_image = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_image + mean
    squares = [n * np.sum((by_seed - mean) ** 2), n_seeds * np.sum((by_image - mean) ** 2), np.sum(rest**2)]
    return np.array(squares) / _freedom(table)


def _freedom(table: FloatArray) -> FloatArray:
    n_seeds, n = table.shape
    return np.array([n_seeds - 1, max(n - 1, 1), (n_seeds - 1) * max(n - 1, 1)], dtype=np.float64)


def two_level_spread(table: FloatArray) -> Spread:
    """Of the mean of an (S, n) table, as of :func:`mean_squares`."""
    seeds, images, rest = found = mean_squares(table)
    # Each of the first two already holds the third in expectation: the estimate may not fall below either.
    total = max(seeds + images - rest, seeds, images)
    squares = found**2 / _freedom(table)
    return Spread(float(total / table.size), float(total**2 / squares.sum()) if total > 0 else np.inf)


def add_spreads(first: tuple[float, float], second: tuple[float, float]) -> Spread:
    """Sum of two independent (variance, degrees of freedom), Satterthwaite's way."""
    total = first[0] + second[0]
    squares = sum(variance**2 / freedom for variance, freedom in (first, second) if variance > 0)
    return Spread(total, total**2 / squares if squares > 0 else np.inf)


def wilson_interval(mean: float, spread: Spread, n: int) -> tuple[float, float]:
    """Score interval of a fraction whose variance is ``spread``: (centre -/+ reach) inside [0, 1].

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927, with m effective images.
    """
    m = mean * (1 - mean) / spread.variance if spread.variance > 0 and 0 < mean < 1 else float(n)
    z = float(stdtrit(spread.freedom, (1 + CONFIDENCE_LEVEL) / 2))
    centre = (mean + z * z / (2 * m)) / (1 + z * z / m)
    reach = z / (1 + z * z / m) * (mean * (1 - mean) / m + z * z / (4 * m * m)) ** 0.5
    return max(0.0, min(mean, centre - reach)), min(1.0, max(mean, centre + reach))
