"""What probes learn from: the rows of a support set, and stand-ins for the only picture of a class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.checked import checked, checked_rows
from clip_fewshot.probes.twins import USUAL_PAIRS, measure_likeness
from clip_fewshot.runtime.arrays import without_torch
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import BoolArray, FloatArray, LabelArray

TWIN_DRAWS, MOST_TWINS = 16, 2000  # of a picture, of all
MOST_COMPARED = 500  # pictures
USUAL_NOISE = 0.15


class Support(NamedTuple):
    """A support set on the unit sphere."""

    unit: FloatArray  # (n, d) unit rows
    labels: LabelArray  # (n,) in 0..c-1
    classes: NDArray[Any]  # (c,) sorted

    @property
    def one_hot(self) -> FloatArray:
        """(n, c)."""
        return np.eye(len(self.classes))[self.labels]


def read_support(probe: Any, X: FloatArray, y: NDArray[Any]) -> Support:
    """Check (n, d) features and (n,) labels of at least two classes, for the ``fit`` of ``probe``."""
    X, y = checked(probe, X, y)
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        fix, where = "add images of another class", type(probe).__name__
        raise UsageError(expected="labels of at least 2 classes", got="one class", fix=fix, where=where)
    return Support(unit_rows(X), labels, classes)


def read_new_class(probe: Any, X: FloatArray) -> FloatArray:
    """(m, d) unit rows of the pictures of a further class, of which there is one at least."""
    X = without_torch(X)
    if not len(X):
        fix, where = "give one, or use the probe 'text-prior', which needs a text only", type(probe).__name__
        raise UsageError(expected="pictures of the new class", got="none", fix=fix, where=where)
    return unit_rows(checked_rows(probe, X))


def is_alone(labels: LabelArray) -> BoolArray:
    """(n,) whether a picture is the only one of its class: without it, nothing is known of the class."""
    return np.asarray(np.bincount(labels)[labels] == 1)


def draw_twins(rows: FloatArray, labels: LabelArray) -> FloatArray:
    """(m, n, d) other pictures of the class of each of the (n, d) centred rows, as they may be expected.

    A row x gives r x + v |x| g, with g standard normal. r is :func:`~clip_fewshot.probes.twins.measure_likeness`; v,
    the deviation of its cosine to a picture of another class, is that between the classes at hand: .22, .24 and .08
    between the pictures of digits, digits-wild and Caltech at one shot, where new pictures deviate by .16, .19 and .05.
    """
    draws = max(1, min(TWIN_DRAWS, MOST_TWINS // len(rows)))
    noise = generator(0, "twins").normal(size=(draws, *rows.shape))
    noise *= _measure_noise(rows, labels) * np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(measure_likeness(rows, labels) * rows + noise)


def draw_stand_ins(rows: FloatArray, labels: LabelArray) -> FloatArray:
    """(m, n, d) rows that are asked when each of the (n, d) centred rows is left out.

    A row whose class has others is itself, and m = 1 where all have. The only one of its class would leave nothing of
    the class behind: it stays, and its twins are asked.
    """
    alone = is_alone(labels)
    return np.where(alone[:, None], draw_twins(rows, labels), rows) if alone.any() else rows[None]


def _measure_noise(rows: FloatArray, labels: LabelArray) -> float:
    """Standard deviation of cosines between classes, drawn to USUAL_NOISE where few are known."""
    few = slice(None, None, 1 + len(rows) // MOST_COMPARED)
    unit, apart = unit_rows(rows)[few], labels[few, None] != labels[few]
    squares = (unit @ unit.T + 1 / (len(rows) - 1))[apart] ** 2  # centring alone makes each -1 / (n - 1)
    return float(np.sqrt((squares.sum() + 2 * USUAL_PAIRS * USUAL_NOISE**2) / (len(squares) + 2 * USUAL_PAIRS)))
