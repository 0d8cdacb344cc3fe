"""Distance to the nearest known images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.preprocessing import normalize

from clip_fewshot.config.ranges import require_int
from clip_fewshot.neighbors.exact import KNN, drop_rows, find_nearest
from clip_fewshot.novelty.base import OwnDecision, own_offset
from clip_fewshot.novelty.rows import few_rows_error, keep_distinct
from clip_fewshot.probes.checked import check_fitted, checked, checked_rows
from clip_fewshot.types import FloatArray


class KNNDetector(OwnDecision, BaseEstimator):  # type: ignore[misc]
    """Minus the mean distance to the k nearest known images, or that to the k-th, all of length 1.

    Sun, Ming, Zhu, Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", 2022, eq. 2, for the k-th;
    Angiulli, Pizzuti, "Fast Outlier Detection in High Dimensional Spaces", 2002, up to the factor k, for the mean,
    which is the default: AUROC .960 to .935 on 4 photos of each of 15 classes, .963 to .933 on 4 digits of each of 7,
    .976 to .974 and .991 to .983 on 16. Copies of a picture
    count once, and k stays below the images of the smallest class, so that a known image has its neighbours in its own
    class even when it is left out itself.

    Args:
        n_neighbors: k, >= 1, an upper limit.
        mean: False: the distance to the k-th alone.

    Attributes:
        n_neighbors_: the k used. rows_: (m, d) distinct normalised rows. kept_: (m,) their places in ``X``.
        loo_scores_: (m,) score of each kept row among the others: the same as m refits with that k.
        offset_: see :func:`clip_fewshot.novelty.base.own_offset`.
    """

    neighbourly: ClassVar[bool] = True
    at_depth: ClassVar[bool] = True
    scheme: ClassVar[str | None] = "full"  # under a millisecond an image, by a shortcut

    def __init__(self, n_neighbors: int = 5, mean: bool = True) -> None:
        self.n_neighbors = n_neighbors
        self.mean = mean

    def fit(self, X: FloatArray, y: NDArray[Any] | None = None) -> KNNDetector:
        """Learn from (n, d) features of known images, at least two of them distinct; ``y``: their classes.

        Raises:
            UsageError: fewer than two distinct rows, or k < 1.
        """
        X, y = checked(self, X, y)
        limit = require_int(self.n_neighbors, "n_neighbors", where="KNNDetector")
        rows = keep_distinct(X, limit)
        self.kept_, self.rows_ = rows.kept, rows.distinct
        if rows.found is None or len(self.rows_) < 2:
            raise few_rows_error("2 distinct rows or more", rows, "KNNDetector")
        smallest = int(np.unique(y[self.kept_], return_counts=True)[1].min())
        self.n_neighbors_ = max(1, min(limit, len(self.rows_) - 2, smallest - 1))
        self.loo_scores_ = self._normality(drop_rows(rows.found, rows.unit, self.kept_, self.n_neighbors_))
        self.offset_ = own_offset(self.loo_scores_)
        return self

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) minus a distance, in [-2, 0]."""
        X = checked_rows(self, X)
        return self._normality(find_nearest(self.rows_, normalize(X), self.n_neighbors_))

    def _normality(self, found: KNN) -> FloatArray:
        return np.asarray(-(found.distances.mean(axis=1) if self.mean else found.distances[:, -1]))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The rows, k, and the leave-one-out scores."""
        check_fitted(self)
        options = np.array([self.n_neighbors_, self.mean], dtype=np.int64)
        return {"rows": self.rows_, "kept": self.kept_, "options": options, "loo_scores": self.loo_scores_}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> KNNDetector:
        """The detector that :meth:`to_arrays` came from."""
        k, mean = arrays["options"].tolist()
        detector = cls(n_neighbors=k, mean=bool(mean))
        detector.rows_, detector.kept_, detector.loo_scores_ = arrays["rows"], arrays["kept"], arrays["loo_scores"]
        detector.n_neighbors_, detector.n_features_in_ = k, arrays["rows"].shape[1]
        detector.offset_ = own_offset(detector.loo_scores_)
        return detector
