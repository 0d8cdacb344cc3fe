"""What rivals on fixed features share: they begin at the texts of the classes, and give a new class its beginning."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import FromLogits, append_class, multiply_rows
from clip_fewshot.probes.class_texts import stack_texts
from clip_fewshot.probes.text_mean import fit_scale
from clip_fewshot.types import FloatArray

# Rates and constants of the papers are meant for OpenAI's models: s = 100, and texts about 10 long where a method does
# not bring them to length 1. At another scale they are carried over so that a step moves the logits by as much.
CLIP_SCALE, TEXT_LENGTH = 100.0, 10.0


class Peer(FromLogits):
    """Linear on unit features, (q, d) -> q @ coef_.T + intercept_; a rival says in ``learn`` how it is found.

    What is trained is float64 on the processor, on features stored once: no augmented views, no validation pictures.

    Args:
        texts: (d,) text features by label, of each class.
        scale: s, the factor on cosines with texts, > 0. The papers have that of the backbone, 100 for OpenAI's models;
            a probe sees features alone. None: fitted on the shots, which the texts never saw; 100: all is as published.
        seed: of the order of batches, and of first weights where there are some.

    Attributes:
        classes_: (c,) labels. coef_: (c, d). intercept_: (c,). scale_: s. together_: rows of the fit.
    """

    reads_texts: ClassVar[bool] = True

    def __init__(
        self, texts: Mapping[Any, FloatArray] | None = None, scale: float | None = None, seed: int = 0
    ) -> None:
        self.texts, self.scale, self.seed = texts, scale, seed

    def fit(self, X: FloatArray, y: NDArray[Any]) -> Peer:
        """Learn from (n, d) features and (n,) labels of at least two classes.

        Raises:
            UsageError: one class, or a class without a text.
        """
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            fix = "add pictures of another class"
            raise UsageError(
                expected="labels of at least 2 classes", got="one class", fix=fix, where=type(self).__name__
            )
        unit = unit_rows(np.asarray(X, np.float64))
        texts = stack_texts(self.texts or {}, self.classes_, unit.shape[1])
        self.scale_ = float(self.scale or fit_scale(unit @ texts.T, labels))
        self.together_, self.intercept_ = len(texts), np.zeros(len(texts))
        self.coef_ = self.scale_ * texts
        self.learn(*map(torch.from_numpy, (unit, labels, texts)))
        return self

    def learn(self, unit: Tensor, labels: Tensor, texts: Tensor) -> None:
        """Train ``coef_`` and what else there is from (n, d) unit rows, (n,) labels in 0..c-1 and (c, d) unit texts."""
        raise NotImplementedError

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``."""
        return multiply_rows(
            self.adapt(unit_rows(np.asarray(X, np.float64))), self.coef_, self.intercept_, self.together_
        )

    def lengthen(self, texts: Tensor) -> Tensor:
        """Unit texts as long, next to the scale, as the tower of OpenAI's models gives them."""
        return TEXT_LENGTH * self.scale_ / CLIP_SCALE * texts

    def adapt(self, unit: FloatArray) -> FloatArray:
        """(n, d) unit rows -> those that ``coef_`` is multiplied with."""
        return unit

    def extend(
        self, X: FloatArray, label: Any, known: FloatArray | None = None, *, text: FloatArray | None = None
    ) -> Peer:
        """A probe that knows the class ``label`` too, where a fit would begin; nothing is trained.

        The papers have no classes that come later. To train the new one alone would be another method.

        Args:
            X: (m, d) features of its pictures, m >= 0. text: (d,) of the class.

        Raises:
            UsageError: no text, or a class that is there already.
        """
        row = stack_texts({} if text is None else {label: text}, np.array([label]), self.coef_.shape[1])[0]
        extended = copy.copy(self)
        extended.classes_ = append_class(self.classes_, label)
        extended.append(unit_rows(np.asarray(X, np.float64)), row)
        return extended

    def append(self, unit: FloatArray, text: FloatArray) -> None:
        """Add a class with (m, d) unit rows and a (d,) unit text."""
        self.coef_ = np.vstack([self.coef_, self.scale_ * text])
        self.intercept_ = np.append(self.intercept_, 0.0)
