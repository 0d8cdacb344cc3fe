"""Mahalanobis distance to the nearest class mean under one covariance for all classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.preprocessing import normalize

from clip_fewshot.config.ranges import require_real
from clip_fewshot.neighbors.exact import find_nearest
from clip_fewshot.novelty.base import OwnDecision, own_offset
from clip_fewshot.novelty.rows import UnitRows, few_rows_error, keep_distinct, number_classes
from clip_fewshot.novelty.scatter import Scatter, WithAndWithout, measure_scatter
from clip_fewshot.probes.checked import check_fitted, checked, checked_rows
from clip_fewshot.types import FloatArray

DISTANCES_AT_ONCE = 1 << 22  # that are held, of one image to one class without one row (32 MiB)
Gaussian = TypeVar("Gaussian", bound="MahalanobisDetector")


class MahalanobisDetector(OwnDecision, BaseEstimator):  # type: ignore[misc]
    """Minus the squared Mahalanobis distance to the nearest class mean, the covariance shared and shrunk.

    Lee, Lee, Lee, Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks", 2018, eq. 2. Theirs has thousands of images per class and a plain covariance, which a few shots leave
    singular; ours divides by the degrees of freedom and is shrunk towards a multiple of the identity. Rows are
    L2-normalised first, and copies count once.

    Args:
        shrinkage: share of the identity, in (0, 1]; None: estimated (see
            :func:`clip_fewshot.novelty.scatter.estimate_shares`).

    Attributes:
        kept_: (m,) places of the distinct rows in ``X``.
        loo_scores_: (m,) score of each kept row under the detector fitted without it, mean, covariance and shrinkage:
            the same as m refits, at the price of two (:mod:`clip_fewshot.novelty.scatter`).
        offset_: see :func:`clip_fewshot.novelty.base.own_offset`.
        means_: (c, d) class means, whitened. axes_, gains_: see :meth:`whiten`.
    """

    _learned: tuple[Scatter, WithAndWithout]

    at_depth: ClassVar[bool] = True
    scheme: ClassVar[str | None] = "leave-one-out"  # "full" takes a fit per image and class, 0.12 s for 10 of 16

    def __init__(self, shrinkage: float | None = None) -> None:
        self.shrinkage = shrinkage

    def fit(self: Gaussian, X: FloatArray, y: NDArray[Any] | None = None) -> Gaussian:
        """Learn from (n, d) features of known images; ``y``: their classes, None: one class.

        Raises:
            UsageError: less than three distinct images of one class or two of two, or a shrinkage outside (0, 1].
        """
        X, y = checked(self, X, y)
        rows = keep_distinct(X)
        found = self.measure(rows, y)
        return self.learn(rows, found, self.shares(found))

    def measure(self, rows: UnitRows, y: NDArray[Any]) -> Scatter:
        """The scatter of the distinct rows around the means of their classes."""
        labels = number_classes(y, rows)
        if len(rows.kept) - labels.max(initial=0) - 1 < 2:  # the variance must outlast the loss of any row
            expected = "3 distinct images of one class, or 2 each of two classes"
            raise few_rows_error(expected, rows, type(self).__name__)
        return measure_scatter(rows.distinct, labels)

    def shares(self, found: Scatter) -> WithAndWithout:
        """The shares of the identity that the covariance of these rows takes."""
        if self.shrinkage is not None:
            fix = "choose a share of the identity, or None"
            require_real(self.shrinkage, "a shrinkage", "(0, 1]", type(self).__name__, fix)
        return found.shares(self.shrinkage)

    def learn(self: Gaussian, rows: UnitRows, found: Scatter, shares: WithAndWithout) -> Gaussian:
        """The rest of :meth:`fit`, with shares that may be those of another scatter of the same rows."""
        self.kept_, self.n_features_in_ = rows.kept, rows.unit.shape[1]
        shrunk = found.shrink(shares)
        outer = 1 / np.sqrt(shrunk.floor)
        self.axes_ = found.axes
        self.gains_ = np.concatenate([1 / np.sqrt(shrunk.slope * found.values + shrunk.floor) - outer, outer])
        self.means_ = self.whiten(found.means)
        self.loo_scores_ = self.normality(found.distances_without(shares))
        self.offset_ = own_offset(self.loo_scores_)
        self._learned = found, shares
        return self

    @staticmethod
    def normality(squared: FloatArray) -> FloatArray:
        """(..., c) squared distances to the class means -> scores; infinite: a class that there is not."""
        return np.asarray(-squared.min(axis=-1))

    def whiten(self, rows: FloatArray) -> FloatArray:
        """(n, d) rows among which Mahalanobis' distance is Euclid's: stretched along the axes, evenly beyond them."""
        return np.asarray(rows * self.gains_[-1] + (rows @ self.axes_ * self.gains_[:-1]) @ self.axes_.T)

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) minus a squared distance; that of a typical known image is about minus the number of features."""
        X = checked_rows(self, X)
        return np.asarray(-(find_nearest(self.means_, self.whiten(normalize(X)), 1).distances[:, 0] ** 2))

    def score_without(self, X: FloatArray) -> FloatArray:
        """(m, n) see :class:`clip_fewshot.novelty.base.LeavesOut`; up to 4 million distances are held at a time."""
        rows, (found, shares) = normalize(checked_rows(self, X)), self._learned
        size = max(1, DISTANCES_AT_ONCE // (len(found.labels) * len(found.means)))
        blocks = np.split(rows, np.arange(size, len(rows), size))
        return np.concatenate([self.normality(found.distances_from(block, shares)) for block in blocks])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Means, axes and the leave-one-out scores."""
        check_fitted(self)
        return {
            "means": self.means_,
            "axes": self.axes_,
            "gains": self.gains_,
            "kept": self.kept_,
            "loo_scores": self.loo_scores_,
        }

    @classmethod
    def from_arrays(cls: type[Gaussian], arrays: Mapping[str, NDArray[Any]]) -> Gaussian:
        """The detector that :meth:`to_arrays` came from; its ``shrinkage`` is None whatever it was."""
        detector = cls()
        detector.means_, detector.axes_, detector.gains_ = arrays["means"], arrays["axes"], arrays["gains"]
        detector.kept_, detector.loo_scores_ = arrays["kept"], arrays["loo_scores"]
        detector.offset_, detector.n_features_in_ = own_offset(detector.loo_scores_), arrays["axes"].shape[0]
        return detector
