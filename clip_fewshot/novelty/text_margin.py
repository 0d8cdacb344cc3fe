"""The margin of an image among the known images, and how well the best class name fits it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.preprocessing import normalize

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.ties import TIE
from clip_fewshot.novelty.base import OwnDecision, own_offset
from clip_fewshot.novelty.mahalanobis_margin import MahalanobisMarginDetector
from clip_fewshot.novelty.rows import keep_distinct
from clip_fewshot.novelty.scatter import WithAndWithout
from clip_fewshot.novelty.textual import check_texts
from clip_fewshot.probes.checked import check_fitted, checked, checked_rows
from clip_fewshot.types import BoolArray, FloatArray, IndexArray

NAMES_WEIGHT = 0.5


class TextMarginDetector(OwnDecision, BaseEstimator):  # type: ignore[misc]
    """The score of :class:`MahalanobisMarginDetector`, plus the cosine to the nearest class name.

    Images lie near images and texts near texts, whatever they show (Liang, Zhang, Kwon, Yeung, Zou, "Mind the Gap",
    2022), so that an image is compared with images and with texts, and never with a mean of both. Squared distances
    times the mean variance of a feature have the unit of the rows, and half of one that of a cosine. The cosine to the
    name weighs half as much, times how far the names can be trusted: the share of the known images that they name
    rightly, above chance. Where names tell nothing, this is the margin alone: docs/figures/detectors.md.

    Args:
        concepts: (c, d) text features of the known classes, in the order of the classes and the space of the images;
            also of classes without images, if y holds row numbers of concepts.
        shrinkage: as of :class:`MahalanobisMarginDetector`.

    Attributes:
        margin_: fitted on the images. concepts_: of length 1. weights_: (2,) of the margin and of the names.
        kept_: (m,) places of the distinct rows in ``X``. loo_scores_: (m,) the same as m refits, trust and all.
            offset_: see :func:`clip_fewshot.novelty.base.own_offset`.
    """

    _without: tuple[FloatArray, FloatArray]

    needs_classes: ClassVar[bool] = True
    needs_texts: ClassVar[tuple[str, ...]] = ("concepts",)
    at_depth: ClassVar[bool] = True
    scheme: ClassVar[str | None] = MahalanobisMarginDetector.scheme

    def __init__(self, concepts: FloatArray | None = None, shrinkage: float | None = None) -> None:
        self.concepts = concepts
        self.shrinkage = shrinkage

    def fit(self, X: FloatArray, y: NDArray[Any] | None = None) -> TextMarginDetector:
        """Learn from (n, d) features of known images and their (n,) classes.

        Raises:
            UsageError: no classes, or fewer than two; concepts that are missing, of another width or of other classes;
                too few images, see :meth:`MahalanobisMarginDetector.fit`.
        """
        X, y = checked(self, X, y)
        if len(np.unique(y)) < 2:
            fix, where = "give y with two classes, or use mahalanobis-margin", "TextMarginDetector"
            raise UsageError(expected="2 classes or more", got="1, or no y", fix=fix, where=where)
        self.concepts_ = check_texts(self.concepts, "concepts", X.shape[1], "TextMarginDetector")
        concept_of = find_concepts(np.unique(y), len(self.concepts_))
        rows, margin = keep_distinct(X), MahalanobisMarginDetector(self.shrinkage)
        found = margin.measure(rows, y)
        self.margin_ = margin.learn(rows, found, margin.shares(found))
        likeness, variances = rows.distinct @ self.concepts_.T, found.variances()
        trust = measure_trust(check_names(likeness, concept_of[found.labels]), len(self.concepts_))
        self.weights_ = np.array([variances.whole[0] / 2, NAMES_WEIGHT * trust.whole[0]])
        self._without = variances.without / 2, NAMES_WEIGHT * trust.without
        names = self._without[1] * likeness.max(axis=1)
        self.kept_, self.loo_scores_ = rows.kept, self._without[0] * self.margin_.loo_scores_ + names
        self.offset_ = own_offset(self.loo_scores_)
        return self

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) higher = more normal."""
        X = checked_rows(self, X)
        likeness = (normalize(X) @ self.concepts_.T).max(axis=1)
        return np.asarray(self.weights_[0] * self.margin_.score_samples(X) + self.weights_[1] * likeness)

    def score_without(self, X: FloatArray) -> FloatArray:
        """(m, n) see :class:`clip_fewshot.novelty.base.LeavesOut`."""
        likeness = (normalize(checked_rows(self, X)) @ self.concepts_.T).max(axis=1)
        return np.asarray(self._without[0] * self.margin_.score_without(X) + self._without[1] * likeness[:, None])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Those of the margin, the texts, the weights and the leave-one-out scores."""
        check_fitted(self)
        margin = {f"margin.{name}": value for name, value in self.margin_.to_arrays().items()}
        return {"concepts": self.concepts_, "weights": self.weights_, "loo_scores": self.loo_scores_, **margin}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TextMarginDetector:
        """The detector that :meth:`to_arrays` came from."""
        detector = cls(arrays["concepts"])
        detector.concepts_, detector.weights_ = arrays["concepts"], arrays["weights"]
        margin = {name.partition(".")[2]: value for name, value in arrays.items() if name.startswith("margin.")}
        detector.margin_ = MahalanobisMarginDetector.from_arrays(margin)
        detector.kept_, detector.loo_scores_ = detector.margin_.kept_, arrays["loo_scores"]
        detector.offset_, detector.n_features_in_ = own_offset(detector.loo_scores_), arrays["concepts"].shape[1]
        return detector


def find_concepts(classes: NDArray[Any], n_concepts: int) -> IndexArray:
    """(c,) which concept is that of each of the sorted classes: in their order, or as their numbers say.

    Raises:
        UsageError: another number of concepts than of classes, which are no row numbers of concepts.
    """
    if len(classes) == n_concepts:
        return np.arange(n_concepts)
    if classes.dtype.kind in "iu" and classes[0] >= 0 and classes[-1] < n_concepts:
        return classes.astype(np.int64)
    raise UsageError(
        expected=f"{len(classes)} concepts, one of each class",
        got=f"{n_concepts}",
        fix="encode the names of the classes in y",
        where="TextMarginDetector",
    )


def check_names(likeness: FloatArray, labels: IndexArray) -> BoolArray:
    """(n,) which rows are nearer to the text of their own class than to any other; (n, c) cosines."""
    others, row = likeness.copy(), np.arange(len(labels))
    others[row, labels] = -np.inf
    return np.asarray(likeness[row, labels] > others.max(axis=1) + TIE)


def measure_trust(right: BoolArray, n_classes: int) -> WithAndWithout:
    """The share of rows that are right above chance, in [0, 1], of all rows and without each of them."""
    chance, n = 1 / n_classes, len(right)
    shares = WithAndWithout(np.array([right.mean()]), (right.sum() - right) / (n - 1))
    return WithAndWithout(*(np.maximum(0.0, (share - chance) / (1 - chance)) for share in shares))
