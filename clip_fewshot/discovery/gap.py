"""The gap statistic: how much better k groups fit than they would fit a Gaussian cloud of the same shape.

Tibshirani, Walther, Hastie, "Estimating the number of clusters in a data set via the gap statistic", 2001.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import linkage

from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray

AXES = 15  # principal axes kept: more only adds noise to the scatter
NULLS = 20  # Gaussian clouds per gap curve
GAP_ROWS = 500  # more rows only make ever smaller structure significant


def project_on_axes(rows: FloatArray) -> FloatArray:
    """(n, <= AXES) coordinates on the principal axes of the centred rows."""
    left, spread, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    return np.asarray((left * spread)[:, :AXES])


def gap_rises(points: FloatArray, most: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """What the gap gains from k - 1 to k groups, k = 2..most (at most half the rows), and its standard errors."""
    rng = generator(seed, "gap")
    if len(points) > GAP_ROWS:
        points = points[np.sort(rng.choice(len(points), GAP_ROWS, replace=False))]
    most = min(most, len(points) // 2)
    spread = points.std(axis=0)
    if most < 2 or spread.max() < 1e-9:
        return np.empty(0), np.empty(0)
    own = log_scatter(points, most)
    clouds = np.array([log_scatter(rng.normal(size=points.shape) * spread, most) for _ in range(NULLS)])
    errors = clouds.std(axis=0) * np.sqrt(1 + 1 / NULLS)
    return np.diff(clouds.mean(axis=0) - own), errors[1:]


def log_scatter(points: FloatArray, most: int) -> FloatArray:
    """(most,) log of the squared distances to the centres of 1..most groups: Ward's merges add height^2 / 2 each."""
    added = np.cumsum(linkage(points, "ward")[:, 2] ** 2 / 2)
    left = added[len(added) - np.arange(1, most + 1)]
    return np.asarray(np.log(np.maximum(left, 1e-12 * added[-1])))


def select_group_count(rises: FloatArray, needed: FloatArray) -> int:
    """The number of groups at which the sum of all rises is most above the sum of what was needed; else 1.

    The sum, because the first splits among many equal classes show little (the cloud of their centres is nearly
    Gaussian) and the last ones much.
    """
    surplus = np.append(0.0, np.cumsum(rises - needed))
    return int(np.argmax(surplus)) + 1
