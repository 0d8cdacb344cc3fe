"""Cross-modal probe: the text of each class is one more picture of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.checked import check_fitted, checked_rows
from clip_fewshot.probes.class_texts import stack_texts
from clip_fewshot.probes.joined import WithPart
from clip_fewshot.probes.logistic import LinearProbe
from clip_fewshot.probes.penalty import Folds, split_stratified
from clip_fewshot.probes.support import read_new_class, read_support
from clip_fewshot.types import FloatArray, LabelArray

_FOLDS = 5


class CrossModalProbe(ClassifierMixin, WithPart, BaseEstimator):  # type: ignore[misc]
    """A linear probe on the pictures and, as one more row of each class, its text.

    Lin, Yu, Kuang, Pathak, Ramanan, "Multimodality Helps Unimodality: Cross-Modal Few-Shot Learning with Multimodal
    Models", 2023, section 3. The texts are moved so that their mean is that of the pictures, which no probe could
    explain otherwise. C is searched as in :class:`~clip_fewshot.probes.logistic.LinearProbe`, on folds that hold out
    pictures and never a text: at one picture a class too.

    Args:
        texts: (d,) text features by label; None: none, and it is the linear probe.

    Attributes:
        classes_: (c,) labels. texts_: (c, d) unit rows, (0, d) without texts. move_: (d,) what was added to texts.
    """

    part = LinearProbe
    reads_texts: ClassVar[bool] = True

    def __init__(self, texts: Mapping[Any, FloatArray] | None = None) -> None:
        self.texts = texts

    def fit(self, X: FloatArray, y: NDArray[Any]) -> CrossModalProbe:
        """Learn from (n, d) features and (n,) labels of at least two classes.

        Raises:
            UsageError: one class, or a class without a text where others have one.
        """
        support = read_support(self, X, y)
        self.classes_ = support.classes
        self.texts_: FloatArray = np.zeros((0, support.unit.shape[1]))
        self.move_: FloatArray = np.zeros(support.unit.shape[1])
        probe, labels = LinearProbe(), support.labels
        if self.texts is not None:
            texts = stack_texts(self.texts, support.classes, support.unit.shape[1])
            self.move_ = support.unit.mean(axis=0) - texts.mean(axis=0)
            self.texts_ = unit_rows(texts + self.move_)
            labels = np.append(labels, np.arange(len(texts)))
            probe = LinearProbe(folds=split_pictures(labels, len(support.unit)))
        self._part = probe.fit(np.vstack([support.unit, self.texts_]), support.classes[labels])
        return self

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``."""
        check_fitted(self)
        return np.asarray(self._part.logits(X))

    def extend(
        self, X: FloatArray, label: Any, known: FloatArray | None = None, *, text: FloatArray | None = None
    ) -> CrossModalProbe:
        """A probe with one class more, see :meth:`~clip_fewshot.probes.logistic.LinearProbe.extend`.

        Args:
            text: (d,) of the new class; needed where the others have one.
        """
        check_fitted(self)
        rows, extended = read_new_class(self, X), copy.copy(self)
        if len(self.texts_):
            row = stack_texts({} if text is None else {label: text}, np.array([label]), rows.shape[1])
            row = unit_rows(row + self.move_)
            known = None if known is None else np.vstack([unit_rows(checked_rows(self, known)), self.texts_])
            rows, extended.texts_ = np.vstack([rows, row]), np.vstack([self.texts_, row])
        extended._part = self._part.extend(rows, label, known)
        extended.classes_ = extended._part.classes_
        return extended


def split_pictures(labels: LabelArray, n: int) -> Folds:
    """Folds of the first ``n`` rows; the others, which are texts, belong to each training part."""
    texts = np.arange(n, len(labels))
    folds = split_stratified(labels, _FOLDS, seed=0)
    return [(np.union1d(train, texts), held[held < n]) for train, held in folds]
