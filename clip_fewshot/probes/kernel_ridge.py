"""Kernel ridge regression on the classes, around nothing or around the texts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import FromLogits, append_class, multiply_rows
from clip_fewshot.probes.blend import BETA_SD, settle_scale, usual_weight
from clip_fewshot.probes.checked import check_fitted, checked_rows
from clip_fewshot.probes.class_texts import stack_texts
from clip_fewshot.probes.support import draw_twins, is_alone, read_new_class, read_support
from clip_fewshot.types import FloatArray, LabelArray

KERNEL_BETA, KERNEL_BETAS = (2.0, (0.5, 2.0, 8.0))  # twice the gamma of a Gaussian kernel on unit rows
RIDGES = (0.01, 0.1, 1.0, 10.0)


class KernelRidgeProbe(ClassifierMixin, FromLogits, BaseEstimator):  # type: ignore[misc]
    """logits = a f(q), f(q) = f0(q) + k(q, X) (K + r I)^-1 (Y - f0(X)), with a Gaussian kernel k on centred unit rows.

    Saunders, Gammerman, Vovk, "Ridge Regression Learning Algorithm in Dual Variables", 1998, section 2, on the one-hot
    labels Y. f0 is 1 / c here. Sharpness, ridge r and a are those under which left-out pictures are likeliest. Their
    residuals have a closed form, e_i / (1 - H_ii) with H = K (K + r I)^-1; the only picture of a class has twins.
    Takes n^3 operations for each sharpness: a second at n = 1,000.

    Args:
        texts: (d,) text features by label, for f0; None: none.

    Attributes:
        classes_: (c,) labels. rows_: (n, d) unit rows. centre_: (d,) mean of those of the fit. dual_: (n, c).
        texts_: (c, d) less their mean, text_mean_ (d,), times what makes them fit Y best. lengths_: (c,) how many rows
        each class was learned from. beta_, ridge_, scale_: those chosen.
    """

    reads_texts: ClassVar[bool] = False

    def __init__(self, texts: Mapping[Any, FloatArray] | None = None) -> None:
        self.texts = texts

    def fit(self, X: FloatArray, y: NDArray[Any]) -> KernelRidgeProbe:
        """Learn from (n, d) features and (n,) labels of at least two classes."""
        support = read_support(self, X, y)
        self.classes_, self.together_ = support.classes, len(support.classes)
        self.rows_, self.centre_ = support.unit, support.unit.mean(axis=0)
        self.lengths_ = np.full(self.together_, len(self.rows_))
        wanted = support.one_hot - 1 / self.together_
        self._read_texts(wanted)
        start = self.rows_ @ self.texts_.T
        self._choose(wanted - start, start, support.labels)
        return self

    def _read_texts(self, wanted: FloatArray) -> None:
        """Zero-shot logits that fit (n, c) targets of the rows best; the texts have not seen them."""
        self.text_mean_, self.slope_ = np.zeros_like(self.centre_), 0.0
        self.texts_ = np.zeros((len(self.classes_), len(self.centre_)))
        if self.texts is None:
            return
        texts = stack_texts(self.texts, self.classes_, len(self.centre_))
        self.text_mean_ = texts.mean(axis=0)
        told = self.rows_ @ (texts - self.text_mean_).T
        self.slope_ = max(0.0, float((told * wanted).sum() / max((told**2).sum(), 1e-12)))
        self.texts_ = self.slope_ * (texts - self.text_mean_)

    def _choose(self, residual: FloatArray, start: FloatArray, labels: LabelArray) -> None:
        keys = unit_rows(self.rows_ - self.centre_)
        alone = is_alone(labels)
        cosines, twins = keys @ keys.T, draw_twins(keys, labels) @ keys.T
        best = np.inf
        for beta in KERNEL_BETAS:
            values, axes = np.linalg.eigh(np.exp(beta * (cosines - 1)))
            values, turned = np.maximum(values, 0.0), axes.T @ residual
            for ridge in RIDGES:
                dual = axes @ (turned / (values + ridge)[:, None])
                # e = r dual, and 1 - H = r (K + r I)^-1.
                left_out = start + residual - dual / (axes**2 @ (1 / (values + ridge)))[:, None]
                expected = start + np.exp(beta * (twins - 1)) @ dual
                left_out = np.where(alone[:, None], expected, left_out) if alone.any() else left_out[None]
                usual = usual_weight(expected)
                scale, cost = settle_scale(left_out, labels, usual)
                cost += np.log(beta / KERNEL_BETA) ** 2 / (2 * BETA_SD**2)
                if cost < best:
                    best, self.beta_, self.ridge_, self.scale_, self.dual_ = cost, beta, ridge, scale, dual
                    self._draws = scale * left_out

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``."""
        unit, k = unit_rows(checked_rows(self, X)), self.together_
        keys, asked = unit_rows(self.rows_ - self.centre_), unit_rows(unit - self.centre_)
        near = np.exp(self.beta_ * (asked @ keys[: self.lengths_[0]].T - 1))
        found = [near @ self.dual_[: self.lengths_[0], :k]]
        for j in range(k, len(self.classes_)):  # a class that came later knows the rows of then
            n = self.lengths_[j]
            found.append(np.exp(self.beta_ * (asked @ keys[:n].T - 1)) @ self.dual_[:n, j : j + 1])
        texts = multiply_rows(unit, self.texts_, np.zeros(len(self.texts_)), k)
        return np.asarray(self.scale_ * (texts + np.hstack(found)))

    def extend(
        self, X: FloatArray, label: Any, known: FloatArray | None = None, *, text: FloatArray | None = None
    ) -> KernelRidgeProbe:
        """A probe with one class more, see :meth:`clip_fewshot.probes.base.Probe.extend`; ``known`` is not needed.

        The regression of the new class is on the rows that the probe keeps and on its own.

        Args:
            text: (d,) of the new class; needed where the others have one.
        """
        check_fitted(self)
        unit, extended = read_new_class(self, X), copy.copy(self)
        extended.classes_, extended._draws = append_class(self.classes_, label), None
        row = np.zeros((1, unit.shape[1]))
        if self.slope_ > 0:
            given = {} if text is None else {label: text}
            row = self.slope_ * (stack_texts(given, np.array([label]), unit.shape[1]) - self.text_mean_)
        extended.texts_, extended.rows_ = np.vstack([self.texts_, row]), np.vstack([self.rows_, unit])
        keys, n = unit_rows(extended.rows_ - self.centre_), len(self.rows_)
        wanted = np.where(np.arange(len(keys)) < n, 0.0, 1.0) - 1 / self.together_ - extended.rows_ @ row[0]
        kernel = np.exp(self.beta_ * (keys @ keys.T - 1))
        dual = np.linalg.solve(kernel + self.ridge_ * np.eye(len(keys)), wanted)
        extended.dual_ = np.column_stack([np.vstack([self.dual_, np.zeros((len(unit), self.dual_.shape[1]))]), dual])
        extended.lengths_ = np.append(self.lengths_, len(keys))
        return extended


class ProKeRProbe(KernelRidgeProbe):
    """Kernel ridge regression on what the texts leave over: f0 = b q (t_j - mean of t) + 1 / c.

    Bendou, Ouasfi, Gripon, Boukhayma, "ProKeR: A Kernel Perspective on Few-Shot Adaptation of Large Vision-Language
    Models", 2025: least squares with a penalty on the distance from the zero-shot predictor in the kernel's space. b
    fits the labels of the support set best; the texts have not seen them.
    """

    reads_texts = True
