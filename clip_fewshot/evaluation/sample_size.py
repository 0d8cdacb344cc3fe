"""How many test images a comparison takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clip_fewshot.evaluation.intervals import paired_difference
from clip_fewshot.evaluation.variance import mean_squares
from clip_fewshot.types import BoolArray


def count_images_to_settle(a: Sequence[BoolArray], b: Sequence[BoolArray]) -> int | None:
    """Test images whose interval of A minus B would leave zero out, if difference and spread stayed as they are.

    More images make their own part of the variance smaller, n / n' of it, and leave that of the support sets.

    Args:
        a, b: as of :func:`~clip_fewshot.evaluation.intervals.paired_difference`.

    Returns:
        None where no number would do: there is no difference, or the support sets differ by more than it.
    """
    found, table = paired_difference(a, b), np.subtract(a, b, dtype=np.float64)
    n_seeds, n = table.shape
    seeds, images, rest = mean_squares(table) if n_seeds > 1 else (0.0, np.var(table, ddof=1) if n > 1 else 0.0, 0.0)
    of_seeds, of_images = max(0.0, float(seeds - rest)) / table.size, float(images) / table.size
    # The interval's own reach, which also knows of few images without any discordant one.
    reach, whole = found.ci95[1] - found.mean, of_seeds + of_images
    share = of_seeds / whole if whole > 0 else 0.0
    left = (found.mean / reach) ** 2 - share
    return math.ceil(n * (1 - share) / left) if left > 0 else None
