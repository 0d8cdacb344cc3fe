"""What detectors have learned, as arrays, for programs that have no detector: of all rows, and without each of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clip_fewshot.novelty.class_mean import ClassMeanDetector
from clip_fewshot.novelty.mahalanobis import MahalanobisDetector
from clip_fewshot.novelty.text_margin import TextMarginDetector
from clip_fewshot.types import BoolArray, FloatArray


class DistancesWithout(NamedTuple):
    """Squared Mahalanobis distances to the class means, all fitted without each of n rows.

    With x the row less ``centre``, a = x ``axes`` and o what the axes leave of x, the distance to class j without row i
    is that of a to ``inside``_j under ``precision``_i, plus |o - ``outside``_j|^2 / ``floor``_i; then, with t = a
    ``solved``_i - ``crossed``_ij, t is moved by ``pushed``_ij, and the distance by ``step``_ij t before and by
    ``feedback``_i t^2 after, plus ``added``_ij.

    Attributes:
        centre: (d,). axes: (d, r). inside: (c, r). outside: (c, d). precision, solved: (n, r). floor, feedback: (n,).
        crossed, step, pushed, added: (n, c). gone: (n, c) the class went with its only row.
    """

    centre: FloatArray
    axes: FloatArray
    inside: FloatArray
    outside: FloatArray
    precision: FloatArray
    solved: FloatArray
    floor: FloatArray
    feedback: FloatArray
    crossed: FloatArray
    step: FloatArray
    pushed: FloatArray
    added: FloatArray
    gone: BoolArray


def write_distances_without(detector: MahalanobisDetector) -> DistancesWithout:
    """Of a detector that :meth:`fit` made: files do not keep what this takes."""
    found, shares = detector._learned
    inverse, left, (inside, outside) = found._invert_without(shares), found._left_out(), found._split(found.means)
    own = found.labels[:, None] == np.arange(len(found.means))
    step, within = left.growth - 1, np.einsum("nr,nr->n", found.residuals, inverse.solved)
    return DistancesWithout(
        found.means.mean(axis=0),
        found.axes,
        inside,
        outside,
        inverse.precision,
        inverse.solved,
        inverse.floor,
        inverse.feedback,
        inverse.solved @ inside.T,
        own * (2 * step)[:, None],
        own * (step * within)[:, None],
        own * (step**2 * within)[:, None],
        own & left.alone[:, None],
    )


class MeansWithout(NamedTuple):
    """(n, d) mean of the class of each row without it, and (n, c) which class that is; (n,) whether it was alone."""

    rest: FloatArray
    own: BoolArray
    alone: BoolArray


def write_means_without(detector: ClassMeanDetector) -> MeansWithout:
    """The same of class means."""
    labels, alone, rest = detector._without
    return MeansWithout(rest, labels[:, None] == np.arange(len(detector.means_)), alone)


def write_weights_without(detector: TextMarginDetector) -> tuple[FloatArray, FloatArray]:
    """(n,) weights of the margin and of the names, without each row."""
    return detector._without
