"""Cosine to the nearest class mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.preprocessing import normalize

from clip_fewshot.novelty.base import OwnDecision, own_offset
from clip_fewshot.novelty.rows import few_rows_error, keep_distinct, number_classes
from clip_fewshot.probes.checked import check_fitted, checked, checked_rows
from clip_fewshot.types import BoolArray, FloatArray, LabelArray


class ClassMeanDetector(OwnDecision, BaseEstimator):  # type: ignore[misc]
    """The largest cosine between an image and a class mean, of rows of length 1.

    The means: Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, eq. 1; the largest cosine as
    a score: Techapanurak, Suganuma, Okatani, "Hyperparameter-Free Out-of-Distribution Detection Using Cosine
    Similarity", 2020. It learns nothing but the means, so that two images of one class are enough.

    Attributes:
        means_: (c, d) of length 1. kept_: (m,) places of the distinct rows in ``X``.
        loo_scores_: (m,) cosine of each kept row when its own mean is taken without it: the same as m refits.
        offset_: see :func:`clip_fewshot.novelty.base.own_offset`.

    Example:
        >>> import numpy as np
        >>> import clip_fewshot as cf
        >>> cf.DETECTORS["class-mean"]().fit(np.eye(3)[:2]).score_samples(np.array([[1.0, 1.0, 0.0]])).round(3).tolist()
        [1.0]
    """

    scheme: ClassVar[str | None] = "leave-one-out"

    _without: tuple[LabelArray, BoolArray, FloatArray]

    def fit(self, X: FloatArray, y: NDArray[Any] | None = None) -> ClassMeanDetector:
        """Learn from (n, d) features of known images; ``y``: their classes, None: one class.

        Raises:
            UsageError: less than two distinct images.
        """
        X, y = checked(self, X, y)
        rows = keep_distinct(X)
        if len(rows.kept) < 2:
            raise few_rows_error("2 distinct rows or more", rows, "ClassMeanDetector")
        self.kept_, labels = rows.kept, number_classes(y, rows)
        sums = np.zeros((labels.max() + 1, rows.unit.shape[1]))
        np.add.at(sums, labels, rows.distinct)
        self.means_ = normalize(sums)
        alone = np.bincount(labels)[labels] == 1  # its class goes with it
        self._without = labels, alone, normalize(sums[labels] - rows.distinct)
        own = np.einsum("nd,nd->n", rows.distinct, self._without[2])
        others = self._find_others(rows.distinct)[np.arange(len(labels)), labels]
        self.loo_scores_ = np.maximum(np.where(alone, -np.inf, own), others)
        self.offset_ = own_offset(self.loo_scores_)
        return self

    def _find_others(self, unit: FloatArray) -> FloatArray:
        """(m, c) the largest cosine of each row with a mean, each class in turn left aside."""
        cosines = unit @ self.means_.T
        first = cosines.argmax(axis=1)[:, None]
        best = np.take_along_axis(cosines, first, axis=1)
        np.put_along_axis(cosines, first, -np.inf, axis=1)
        return np.where(np.arange(cosines.shape[1]) == first, cosines.max(axis=1, keepdims=True), best)

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) in [-1, 1]."""
        return np.asarray((normalize(checked_rows(self, X)) @ self.means_.T).max(axis=1))

    def score_without(self, X: FloatArray) -> FloatArray:
        """(m, n) see :class:`clip_fewshot.novelty.base.LeavesOut`."""
        unit, (labels, alone, rest) = normalize(checked_rows(self, X)), self._without
        return np.maximum(np.where(alone, -np.inf, unit @ rest.T), self._find_others(unit)[:, labels])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Means and leave-one-out scores."""
        check_fitted(self)
        return {"means": self.means_, "kept": self.kept_, "loo_scores": self.loo_scores_}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ClassMeanDetector:
        """The detector that :meth:`to_arrays` came from."""
        detector = cls()
        detector.means_, detector.kept_, detector.loo_scores_ = arrays["means"], arrays["kept"], arrays["loo_scores"]
        detector.offset_, detector.n_features_in_ = own_offset(detector.loo_scores_), arrays["means"].shape[1]
        return detector
