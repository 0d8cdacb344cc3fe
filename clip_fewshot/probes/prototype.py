"""A class is the mean of its pictures, and a picture is of the class whose mean lies nearest by angle."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from clip_fewshot.config.ranges import require_real
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import FromLogits, append_class
from clip_fewshot.probes.blend import settle_scale, usual_weight
from clip_fewshot.probes.checked import check_fitted, checked_rows
from clip_fewshot.probes.support import draw_stand_ins, draw_twins, is_alone, read_new_class, read_support
from clip_fewshot.types import FloatArray, LabelArray


class PrototypeProbe(FromLogits, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Cosine to the mean of each class, times a scale.

    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, with the cosine in place of the
    Euclidean distance, as the encoders here are trained on it. Rows are brought to length 1 and centred first (Wang,
    Chao, Weinberger, van der Maaten, "SimpleShot", 2019): the features of an encoder share a large mean, which says
    nothing of any class. A class that is added later changes neither the centre nor the means before it.

    Args:
        scale: factor on the cosines, > 0; None: the one with the least loss on pictures left out of their class's
            mean. It decides how sure the probabilities are, and never which class wins.

    Attributes:
        classes_: (c,) labels, see :class:`clip_fewshot.probes.base.Probe`. means_: (c, d) of unit length.
        centre_: (d,) mean of the unit rows of the fit. scale_: the factor used.
    """

    def __init__(self, scale: float | None = None) -> None:
        self.scale = scale

    def fit(self, X: FloatArray, y: NDArray[Any]) -> PrototypeProbe:
        """Learn from (n, d) features and (n,) labels (integers or strings) of at least two classes."""
        support = read_support(self, X, y)
        if self.scale is not None:
            require_real(self.scale, "scale", "(0, inf)", "prototype", "choose a positive number, or None")
        self.classes_, labels = support.classes, support.labels
        self.centre_ = support.unit.mean(axis=0)
        rows = unit_rows(support.unit - self.centre_)
        sums = np.zeros((len(self.classes_), rows.shape[1]))
        np.add.at(sums, labels, rows)
        self.means_, self.together_ = unit_rows(sums), len(self.classes_)
        left_out = np.stack([_leave_out(rows, asked, labels, sums) for asked in draw_stand_ins(rows, labels)])
        usual = usual_weight(draw_twins(rows, labels) @ self.means_.T)
        self.scale_ = settle_scale(left_out, labels, usual, self.scale)[0]
        self._draws = self.scale_ * left_out
        return self

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c) scaled cosines, columns as ``classes_``."""
        X = checked_rows(self, X)
        rows, k = unit_rows(unit_rows(X) - self.centre_), self.together_
        # A class that came later is multiplied by itself: one product with the others could change how they round.
        later = [rows @ self.means_[i : i + 1].T for i in range(k, len(self.means_))]
        return np.asarray(self.scale_ * np.hstack([rows @ self.means_[:k].T, *later]))

    def extend(self, X: FloatArray, label: Any, known: FloatArray | None = None) -> PrototypeProbe:
        """A probe with one class more, see :meth:`clip_fewshot.probes.base.Probe.extend`; ``known`` is not needed."""
        check_fitted(self)
        unit, extended = read_new_class(self, X), copy.copy(self)
        extended.classes_, extended._draws = append_class(self.classes_, label), None
        mean = unit_rows(unit_rows(unit - self.centre_).sum(axis=0, keepdims=True))
        extended.means_ = np.vstack([self.means_, mean])
        return extended

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned, as plain arrays (``classes`` is numeric or fixed-width text: no pickle)."""
        check_fitted(self)
        classes = self.classes_ if self.classes_.dtype != object else self.classes_.astype(str)
        numbers = {"scale": np.array(self.scale_), "together": np.array(self.together_)}
        return {"means": self.means_, "centre": self.centre_, "classes": classes, **numbers}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> PrototypeProbe:
        """The probe that :meth:`to_arrays` came from, ready to predict."""
        probe = cls(scale=float(arrays["scale"]))
        probe.means_, probe.centre_, probe.classes_ = arrays["means"], arrays["centre"], arrays["classes"]
        probe.scale_, probe.together_ = float(arrays["scale"]), int(arrays["together"])
        probe.n_features_in_ = arrays["means"].shape[1]
        return probe


def _leave_out(rows: FloatArray, asked: FloatArray, labels: LabelArray, sums: FloatArray) -> FloatArray:
    """(n, c) cosines of what is asked; the mean of its own class is without the picture, unless it is the only one."""
    cosines, several = asked @ unit_rows(sums).T, ~is_alone(labels)
    without = unit_rows((sums[labels] - rows)[several])
    cosines[several, labels[several]] = np.einsum("nd,nd->n", rows[several], without)
    return cosines
