"""Scores that differ by no more than rounding are equal: the last bit of a processor decides nothing."""

from __future__ import annotations

import numpy as np

from clip_fewshot.types import FloatArray

TIE = 1e-9  # relative


def tie_range(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The least and the greatest score that each of ``scores`` ties with.

    Distances of unit rows are exact to some 1e-16 and, between rows that are not copies, above 1e-5: what is made of
    them is exact to some 1e-11. Scores that differ by more than 1e-9 of themselves are different.
    """
    ends = scores * (1 - TIE), scores * (1 + TIE)  # products, so that infinite scores have a range too
    return np.minimum(*ends), np.maximum(*ends)
