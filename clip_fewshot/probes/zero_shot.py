"""The class whose text lies nearest: nothing is learned from pictures but how sure to be."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import FromLogits, append_class, find_added, multiply_rows
from clip_fewshot.probes.checked import check_fitted, checked_rows
from clip_fewshot.probes.class_texts import stack_texts
from clip_fewshot.probes.support import read_support
from clip_fewshot.probes.text_mean import fit_scale
from clip_fewshot.types import FloatArray


class ZeroShotProbe(ClassifierMixin, FromLogits, BaseEstimator):  # type: ignore[misc]
    """Cosine to the text of each class, times a scale.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 3.1. The
    scale is the one under which the pictures of the fit are likeliest
    (:func:`~clip_fewshot.probes.text_mean.fit_scale`), not that of the pretraining, which tells a picture's caption
    among thousands of others. It never decides which class wins.

    Args:
        texts: (d,) text features by label.

    Attributes:
        classes_: (c,) labels. texts_: (c, d) unit rows. scale_: of the cosines.

    Example:
        >>> import numpy as np
        >>> from clip_fewshot.probes import ZeroShotProbe
        >>> texts = {"ant": np.array([1.0, 0, 0]), "bee": np.array([0, 1.0, 0])}
        >>> ZeroShotProbe(texts).fit(np.eye(3)[:2], np.array(["ant", "bee"])).predict(np.eye(3)[1:2]).tolist()
        ['bee']
    """

    reads_texts: ClassVar[bool] = True

    def __init__(self, texts: Mapping[Any, FloatArray] | None = None) -> None:
        self.texts = texts

    def fit(self, X: FloatArray, y: NDArray[Any]) -> ZeroShotProbe:
        """Fit the scale to (n, d) features with (n,) labels of at least two classes.

        Raises:
            UsageError: one class, or a class without a text.
        """
        support = read_support(self, X, y)
        self.classes_ = support.classes
        self.texts_ = stack_texts(self.texts or {}, self.classes_, support.unit.shape[1])
        self.together_ = len(self.texts_)
        cosines = support.unit @ self.texts_.T
        self.scale_ = fit_scale(cosines, support.labels)
        self._left_out = self.scale_ * cosines
        return self

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c) scaled cosines, columns as ``classes_``."""
        unit = unit_rows(checked_rows(self, X))
        return multiply_rows(unit, self.scale_ * self.texts_, np.zeros(len(self.texts_)), self.together_)

    def left_out_logits(self) -> FloatArray:
        """(n, c) of the pictures of the fit: the texts have never seen them."""
        return self._left_out

    def extend(
        self, X: FloatArray, label: Any, known: FloatArray | None = None, *, text: FloatArray | None = None
    ) -> ZeroShotProbe:
        """A probe with one class more, see :meth:`clip_fewshot.probes.base.Probe.extend`; pictures are not needed.

        Args:
            text: (d,) of the new class.
        """
        check_fitted(self)
        extended = copy.copy(self)
        extended.classes_ = append_class(self.classes_, label)
        row = stack_texts({} if text is None else {label: text}, np.array([label]), self.texts_.shape[1])
        extended.texts_ = np.vstack([self.texts_, row])
        return extended

    def without(self, label: Any) -> ZeroShotProbe:
        """See :meth:`clip_fewshot.probes.base.NameProbe.without`."""
        check_fitted(self)
        fewer, place = copy.copy(self), find_added(self.classes_, label, self.together_)
        fewer.classes_, fewer.texts_ = np.delete(self.classes_, place), np.delete(self.texts_, place, axis=0)
        return fewer
