"""What every detector does with its rows first: length 1, and each picture once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import normalize

from clip_fewshot.errors import UsageError
from clip_fewshot.neighbors.exact import KNN, find_distinct, find_nearest_others
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

LEFT_OUT_PARTS = 20  # refits where there are too many rows to leave out each by itself


class UnitRows(NamedTuple):
    """(n, d) rows of length 1, the (m,) places of the distinct ones, and all rows' nearest others, if any."""

    unit: FloatArray
    kept: IndexArray
    found: KNN | None

    @property
    def distinct(self) -> FloatArray:
        """(m, d)."""
        return self.unit if len(self.kept) == len(self.unit) else self.unit[self.kept]


def keep_distinct(X: FloatArray, neighbours: int = 1) -> UnitRows:
    """(n, d) features L2-normalised, CLIP's being compared by angle: length says more of contrast than of content.

    Args:
        neighbours: how many nearest others to look up on the way, as far as there are rows.
    """
    unit = normalize(X)
    found = find_nearest_others(unit, min(neighbours, len(unit) - 1)) if len(unit) > 1 else None
    return UnitRows(unit, find_distinct(unit, found), found)


def few_rows_error(expected: str, rows: UnitRows, where: str) -> UsageError:
    """The refusal of a support set with too few distinct images."""
    n, d = rows.unit.shape
    return UsageError(
        expected=expected, got=f"{len(rows.kept)} (n_samples = {n}, n_features = {d})", fix="add images", where=where
    )


def number_classes(y: NDArray[Any], rows: UnitRows) -> LabelArray:
    """(m,) 0..c-1 of the distinct rows, of the (n,) classes of all."""
    return np.asarray(np.unique(y[rows.kept], return_inverse=True)[1])


def split_left_out(labels: LabelArray, alone: int, parts: int = LEFT_OUT_PARTS) -> list[IndexArray]:
    """Which rows to leave out together: up to ``alone`` rows one by one, else ``parts`` that share each class."""
    if len(labels) <= alone:
        return list(np.arange(len(labels))[:, None])
    dealt = np.empty(len(labels), dtype=np.int64)
    dealt[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % parts
    return [np.flatnonzero(dealt == k) for k in range(parts)]
