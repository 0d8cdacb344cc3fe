"""The objective of multinomial logistic regression, its slope and its curvature, for several data sets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from clip_fewshot.types import FloatArray, IndexArray, LabelArray

LEAST_LENGTH = 1e-12  # squared, of rows that are all the same


class CentredRows(NamedTuple):
    """Rows less their mean: ``rows = (X - mean) @ axes``, or without ``axes`` where that would save nothing."""

    rows: FloatArray  # (n, r)
    mean: FloatArray  # (d,)
    axes: FloatArray | None  # (d, r) orthonormal, their span holds all centred rows


class Softmax(NamedTuple):
    """What (f, n, c) logits say of the labels; all zero in rows that only pad."""

    losses: FloatArray  # (f, n, 1) -ln p of the label
    residuals: FloatArray  # (f, n, c) probabilities less the one-hot labels
    right: FloatArray  # (f, n, 1) p of the label


class ObjectivePoint(NamedTuple):
    """Where a descent stands."""

    weights: FloatArray  # (f, c, r + 1)
    logits: FloatArray  # (f, n, c)
    value: FloatArray  # (f,)
    penalty: FloatArray  # (f,) its part |W|^2 / 2
    gradient: FloatArray  # (f, c, r + 1)
    probabilities: FloatArray  # (f, n, c)

    @property
    def bound(self) -> FloatArray:
        """(f,) gap to the minimum that strong convexity allows."""
        return dot(self.gradient, self.gradient) / 2


def centre_rows(X: FloatArray) -> CentredRows:
    """Centre (n, d) float64 rows; fewer than d / 2 of them also turn to a basis of their span."""
    mean = X.mean(axis=0)
    rows = X - mean
    if 2 * len(X) > X.shape[1]:
        return CentredRows(rows, mean, None)
    axes = np.linalg.qr(rows.T)[0]
    return CentredRows(rows @ axes, mean, axes)


@dataclass(frozen=True)
class SoftmaxProblem:
    """f data sets of equal size to fit for several C, side by side: small ones cost Python's time, not arithmetic's.

    Attributes:
        rows: (f, n, r + 1) centred rows with a last column of ones, or of zeros where there is no intercept; rows of
            zeros pad the shorter sets.
        real: (f, n, 1) 1, and 0 in rows that only pad.
        labels: (f, n) in 0..n_classes-1.
        offset: (f, n, c) added to all logits: what a prior says of the rows; None: nothing.
    """

    rows: FloatArray
    real: FloatArray
    labels: LabelArray
    n_classes: int
    offset: FloatArray | None = None

    @classmethod
    def from_rows(
        cls, rows: FloatArray, labels: LabelArray, n_classes: int, offset: FloatArray | None = None
    ) -> SoftmaxProblem:
        """One data set, from (n, r) centred rows and (n,) labels in 0..n_classes-1.

        Args:
            offset: (n, c) of the logits. With one there is no intercept: the offset has it.
        """
        ones = np.ones((len(rows), 1), rows.dtype)
        wide = np.hstack([rows, ones if offset is None else 0 * ones])
        return cls(wide[None], ones[None], labels[None], n_classes, None if offset is None else offset[None])

    @cached_property
    def single(self) -> SoftmaxProblem:
        """The same in float32."""
        if self.rows.dtype == np.float32:
            return self
        offset = None if self.offset is None else self.offset.astype(np.float32)
        return SoftmaxProblem(
            self.rows.astype(np.float32), self.real.astype(np.float32), self.labels, self.n_classes, offset
        )

    def subsets(self, parts: Sequence[IndexArray]) -> SoftmaxProblem:
        """In float32, one problem for each set of row numbers of the first."""
        shape = len(parts), max(map(len, parts))
        rows, labels = np.zeros((*shape, self.rows.shape[2]), np.float32), np.zeros(shape, np.int64)
        real = np.zeros((*shape, 1), np.float32)
        offset = None if self.single.offset is None else np.zeros((*shape, self.n_classes), np.float32)
        for k, part in enumerate(parts):
            rows[k, : len(part)], labels[k, : len(part)] = self.single.rows[0, part], self.labels[0, part]
            real[k, : len(part)] = 1
            if offset is not None and self.single.offset is not None:
                offset[k, : len(part)] = self.single.offset[0, part]
        return SoftmaxProblem(rows, real, labels, self.n_classes, offset)

    @cached_property
    def _own(self) -> IndexArray:
        """(f * n,) where the label's own entry lies in (f, n, c) logits."""
        return np.arange(self.labels.size) * self.n_classes + self.labels.ravel()

    def start(self) -> FloatArray:
        """All-zero weights."""
        return np.zeros((len(self.rows), self.n_classes, self.rows.shape[2]), self.rows.dtype)

    def logits(self, weights: FloatArray) -> FloatArray:
        """(f, n, c) of (f, c, r + 1) weights."""
        learned = self.change(weights)
        return learned if self.offset is None else learned + self.offset

    def change(self, weights: FloatArray) -> FloatArray:
        """(f, n, c) by which (f, c, r + 1) weights move the logits from their offset."""
        return np.asarray(self.rows @ weights.swapaxes(1, 2))

    def softmax(self, logits: FloatArray) -> Softmax:
        """Losses and residuals, to full relative precision where the label is nearly certain."""
        p = logits - logits.max(axis=2, keepdims=True)
        own = p.ravel()  # a view
        logit = own[self._own].reshape(*self.labels.shape, 1)
        np.exp(p, out=p)
        own[self._own] = 0.0
        others, right = p.sum(axis=2, keepdims=True), np.exp(logit)
        total = others + right
        share = self.real / total
        p *= share
        own[self._own] = -(others * share).ravel()
        return Softmax((np.log(total) - logit) * self.real, p, right * share)

    def evaluate(self, weights: FloatArray, C: float) -> ObjectivePoint:
        """Objective, gradient and probabilities at (f, c, r + 1) weights."""
        logits = self.logits(weights)
        return self.point(weights, logits, self.softmax(logits), C)

    def point(self, weights: FloatArray, logits: FloatArray, told: Softmax, C: float) -> ObjectivePoint:
        """The objective at weights whose logits and losses are known."""
        gradient = told.residuals.swapaxes(1, 2) @ self.rows
        gradient *= C
        gradient[:, :, :-1] += weights[:, :, :-1]
        probabilities = told.residuals
        probabilities.ravel()[self._own] = told.right.ravel()
        penalty = dot(weights[:, :, :-1], weights[:, :, :-1]) / 2
        value = C * told.losses.sum(axis=(1, 2), dtype=np.float64) + penalty
        return ObjectivePoint(weights, logits, value, penalty, gradient, probabilities)

    def curvature(self, p: FloatArray, along: FloatArray, C: float) -> FloatArray:
        """The Hessian where the model says ``p``, times (f, c, r + 1) weights, in float32."""
        rows = self.single.rows
        change = rows @ along.swapaxes(1, 2)
        change -= np.einsum("fnc,fnc->fn", p, change)[:, :, None]
        change *= p
        image = change.swapaxes(1, 2) @ rows
        image *= C
        image[:, :, :-1] += along[:, :, :-1]
        return np.asarray(image)


def dot(a: FloatArray, b: FloatArray) -> FloatArray:
    """(f,) inner products."""
    return np.asarray(np.einsum("fkr,fkr->f", a, b))
