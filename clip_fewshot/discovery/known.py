"""Known classes as a yardstick for unknown ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import normalize

from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.arrays import as_labels, as_rows
from clip_fewshot.types import BoolArray, FloatArray, LabelArray


def as_pair(reference: object) -> tuple[FloatArray, LabelArray]:
    """(features, labels); UsageError for anything else."""
    if not isinstance(reference, tuple | list) or len(reference) != 2:
        got, fix = f"a {type(reference).__name__}", "pass (features, labels)"
        raise UsageError(expected="known features and their labels", got=got, fix=fix, where="reference")
    return reference[0], reference[1]


@dataclass(frozen=True)
class KnownRows:
    """(m, d) rows of unit length, (m,) class numbers without gaps."""

    rows: FloatArray
    classes: LabelArray

    @classmethod
    def from_features(cls, features: FloatArray, labels: NDArray[np.generic]) -> KnownRows:
        """Any features and labels; at least one row.

        Raises:
            UsageError: features that are not finite, none, or as many labels as there are rows not given.
        """
        rows, classes = as_rows(features, "reference"), as_labels(labels, "reference")
        if not len(rows) or len(rows) != len(classes):
            got = f"{len(rows)} features and {len(classes)} labels"
            raise UsageError(
                expected="known features with a label each", got=got, fix="pass none or both", where="reference"
            )
        return cls(normalize(rows), np.unique(classes, return_inverse=True)[1].astype(np.int64))

    @property
    def n_classes(self) -> int:
        """How many known classes there are."""
        return int(self.classes.max()) + 1

    @property
    def fewest(self) -> int:
        """Images of the smallest class."""
        return int(np.bincount(self.classes).min())

    def means(self) -> FloatArray:
        """(c, d) centre of each class."""
        return np.array([self.rows[self.classes == c].mean(axis=0) for c in range(self.n_classes)])

    def subset(self, chosen: BoolArray) -> KnownRows:
        """The rows where (m,) ``chosen`` is true, their classes numbered again without gaps."""
        return KnownRows(self.rows[chosen], np.unique(self.classes[chosen], return_inverse=True)[1].astype(np.int64))

    def scaling(self) -> FloatArray:
        """(d, d) map that divides each direction by its spread within classes, halfway shrunk to the mean spread."""
        within = self.rows - self.means()[self.classes]
        spread, axes = np.linalg.eigh(within.T @ within / len(within))
        spread = np.maximum(spread, 0) + spread.mean()
        return np.asarray(axes / np.sqrt(spread)) if spread.max() > 1e-12 else np.eye(len(spread))
