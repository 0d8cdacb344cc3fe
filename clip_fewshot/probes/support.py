"""What probes learn from: the rows of a support set, and stand-ins for pictures that are the only one of their class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.twins import measure_likeness
from clip_fewshot.types import BoolArray, FloatArray, LabelArray


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
    X, y = validate_data(probe, X, y, dtype=np.float64)
    check_classification_targets(y)
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        fix, where = "add images of another class", type(probe).__name__
        raise UsageError(expected="labels of at least 2 classes", got="one class", fix=fix, where=where)
    return Support(unit_rows(X), labels, classes)


def read_new_class(probe: Any, X: FloatArray) -> FloatArray:
    """(m, d) unit rows of the pictures of a further class, of which there is one at least."""
    if not len(X):
        fix, where = "give one, or use the probe 'text-prior', which needs a text only", type(probe).__name__
        raise UsageError(expected="pictures of the new class", got="none", fix=fix, where=where)
    return unit_rows(validate_data(probe, X, dtype=np.float64, reset=False))


def is_alone(labels: LabelArray) -> BoolArray:
    """(n,) whether a picture is the only one of its class: without it, nothing is known of the class."""
    return np.asarray(np.bincount(labels)[labels] == 1)


def twin_share(rows: FloatArray, labels: LabelArray) -> FloatArray:
    """(n, 1) share of its (n, d) centred row that a picture has in common with the one that stands in when it is left out.

    1 where the class has other pictures. Where it has none, another picture of the class is expected at the angle
    whose cosine is :func:`~clip_fewshot.probes.twins.measure_likeness`, and to be like others by chance besides: its
    inner products are that share of the picture's own.
    """
    return np.where(is_alone(labels), measure_likeness(rows, labels), 1.0)[:, None]
