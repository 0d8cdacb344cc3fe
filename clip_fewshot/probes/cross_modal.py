"""Cross-modal probe: the text of each class is one more picture of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import FromLogits
from clip_fewshot.probes.class_texts import stack_texts
from clip_fewshot.probes.logistic import LinearProbe
from clip_fewshot.probes.penalty import Folds, split_stratified
from clip_fewshot.probes.support import read_new_class, read_support
from clip_fewshot.types import FloatArray, LabelArray


class CrossModalProbe(ClassifierMixin, FromLogits, BaseEstimator):  # type: ignore[misc]
    """A linear probe on the pictures and, as one more row of each class, its text.

    Lin, Yu, Kuang, Pathak, Ramanan, "Multimodality Helps Unimodality: Cross-Modal Few-Shot Learning with Multimodal
    Models", 2023, equation 4. The texts are moved so that their mean is that of the pictures. C is searched as by
    :class:`~clip_fewshot.probes.logistic.LinearProbe`, on folds that hold out pictures and never a text: so it is
    searched at one picture a class too.

    Args:
        texts: (d,) text features by label; None: none, and it is the linear probe.

    Attributes:
        classes_: (c,) labels.
    """

    reads_texts: ClassVar[bool] = True

    def __init__(self, texts: Mapping[Any, FloatArray] | None = None) -> None:
        self.texts = texts

    def fit(self, X: FloatArray, y: NDArray[Any]) -> CrossModalProbe:
        support = read_support(self, X, y)
        self._shift = np.zeros((0, X.shape[1]))
        rows, labels, folds = support.unit, support.labels, 5
        if self.texts is not None:
            texts = stack_texts(self.texts, support.classes, X.shape[1])
            rows = np.vstack([rows, unit_rows(texts - texts.mean(0) + rows.mean(0)) if MOVE else texts])
            labels = np.append(labels, np.arange(len(texts)))
            folds = _folds(labels, len(support.unit))
        self._probe = LinearProbe(folds=folds).fit(rows, support.classes[labels])
        self.classes_ = support.classes
        return self
    def logits(self, X): return self._probe.logits(X)
    def extend(self, X, label, known=None, *, text=None): return self
MOVE=True

def _folds(labels: LabelArray, n: int) -> Folds:
    texts = np.arange(n, len(labels))
    return [(np.union1d(train, texts), held[held < n]) for train, held in split_stratified(labels, 5, 0)]
