"""Text logits beside those of a classifier of pictures, weighed by left-out pictures."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import FromLogits, append_class, multiply_rows
from clip_fewshot.probes.blend import fit_weights, usual_weight
from clip_fewshot.probes.checked import check_fitted, checked_rows
from clip_fewshot.probes.class_texts import stack_texts
from clip_fewshot.probes.support import read_new_class, read_support
from clip_fewshot.types import FloatArray

_PART = "part_"
# Of the pictures' own scale: .5 or 1 makes .001 in accuracy on four sets, but .285 or .326 in loss at one shot.
USUAL_SHARE = 0.5
# Nats; that texts help is believed 7 to 1 beforehand. At one shot 0 makes .885 of .903 with texts that are true, and
# .794 of .735 with random ones.
_DOUBT = 2.0


class WithPart(FromLogits):
    """A probe that keeps another one in ``_part``."""

    part: ClassVar[type[Any]]
    _part: Any

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that was learned, that of the part under names of its own."""
        part = {_PART + name: array for name, array in self._part.to_arrays().items()}
        return super().to_arrays() | part

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> WithPart:
        """The probe that :meth:`to_arrays` came from, to the last bit."""
        probe = super().from_arrays({name: one for name, one in arrays.items() if not name.startswith(_PART)})
        part = {name.removeprefix(_PART): one for name, one in arrays.items() if name.startswith(_PART)}
        probe._part = cls.part.from_arrays(part)
        return probe


class JoinedProbe(ClassifierMixin, WithPart, BaseEstimator):  # type: ignore[misc]
    """logits = s q t_j + a f_j(q): cosines q t_j to the texts, and the logits f of a probe that knows pictures alone.

    s and a make the left-out logits of the pictures likeliest: the texts have seen no picture, and the part tells each
    one as if it had not. Texts that make them less likely than the part alone are not believed: s is 0. Without texts
    it is the part.

    Args:
        texts: (d,) text features by label; None: none.

    Attributes:
        classes_: (c,) labels. texts_: (c, d) unit rows. text_scale_: s. picture_scale_: a.
    """

    reads_texts: ClassVar[bool] = True

    def __init__(self, texts: Mapping[Any, FloatArray] | None = None) -> None:
        self.texts = texts

    def fit(self, X: FloatArray, y: NDArray[Any]) -> JoinedProbe:
        """Learn from (n, d) features and (n,) labels of at least two classes.

        Raises:
            UsageError: one class, or a class without a text where others have one.
        """
        support = read_support(self, X, y)
        self.classes_, width = support.classes, support.unit.shape[1]
        self._part = self.part().fit(X, y)
        self._draws = self._part._draws
        self.texts_: FloatArray = np.zeros((len(self.classes_), width))
        self.text_scale_, self.picture_scale_ = 0.0, 1.0
        self.together_ = len(self.classes_)
        if self.texts is not None:
            self.texts_ = stack_texts(self.texts, self.classes_, width)
            terms = [(support.unit @ self.texts_.T)[None], self._draws]
            usual = [usual_weight(terms[0]), USUAL_SHARE]
            (self.text_scale_, self.picture_scale_), cost = fit_weights(terms, support.labels, usual)
            alone, cost_alone = fit_weights(terms[1:], support.labels, [1.0])
            if cost_alone < cost - _DOUBT:
                self.text_scale_, self.picture_scale_ = 0.0, alone[0]
            self._draws = self.text_scale_ * terms[0] + self.picture_scale_ * terms[1]
        return self

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``."""
        check_fitted(self)
        pictures = self._part.logits(X)
        rows = self.text_scale_ * self.texts_
        texts = multiply_rows(unit_rows(checked_rows(self, X)), rows, np.zeros(len(rows)), self.together_)
        return np.asarray(texts + self.picture_scale_ * pictures)

    def extend(
        self, X: FloatArray, label: Any, known: FloatArray | None = None, *, text: FloatArray | None = None
    ) -> JoinedProbe:
        """A probe with one class more, see :meth:`clip_fewshot.probes.base.Probe.extend`.

        Args:
            text: (d,) of the new class; needed where the others have one.
        """
        check_fitted(self)
        read_new_class(self, X)
        extended, width = copy.copy(self), self.texts_.shape[1]
        extended.classes_, extended._draws = append_class(self.classes_, label), None
        row: FloatArray = np.zeros((1, width))
        if self.text_scale_ > 0:
            row = stack_texts({} if text is None else {label: text}, np.array([label]), width)
        extended.texts_ = np.vstack([self.texts_, row])
        extended._part = self._part.extend(X, label, known)
        return extended
