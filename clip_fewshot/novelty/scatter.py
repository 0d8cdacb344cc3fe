"""A shrunk covariance around class means, and what becomes of it when one row is left out.

With W the scatter of the rows around their class means and N - c degrees of freedom, the covariance is
(1 - s) W / (N - c) + s t I, t the mean variance of a feature. All is written in the eigenvectors of W, where such a
matrix is diagonal for every s. Leaving out row i of a class of k takes k / (k - 1) z z' off W, z being the row less its
class mean: a change of rank one (Sherman, Morrison, 1950), while s and t follow from the traces of W and W W.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from clip_fewshot.types import BoolArray, FloatArray, LabelArray


class WithAndWithout(NamedTuple):
    """A number learned from the rows: (1,) from all of them, and (n,) without each of them."""

    whole: FloatArray
    without: FloatArray


class Shrunk(NamedTuple):
    """The covariance ``slope W + floor I``."""

    slope: FloatArray
    floor: FloatArray


def shrink(trace: FloatArray, freedom: FloatArray, n_features: int, shares: FloatArray) -> Shrunk:
    """Shrinkage by ``shares`` of as many scatters as there are numbers in each, from their traces.

    Args:
        freedom: degrees of freedom, >= 1.
    """
    return Shrunk((1 - shares) / freedom, shares * trace / freedom / n_features)


def estimate_shares(trace: FloatArray, square: FloatArray, freedom: FloatArray, n_features: int) -> FloatArray:
    """The share of Chen, Wiesel, Eldar, Hero, "Shrinkage Algorithms for MMSE Covariance Estimation", 2010 (OAS).

    As scikit-learn computes it, from the traces of W and W W. The rows turned by contrasts within their classes are
    ``freedom`` rows of mean 0 with the same scatter, so they take the place of the sample size.
    """
    mean = trace / freedom / n_features
    power = square / freedom**2 / n_features**2
    spread = (freedom + 1) * (power - mean**2 / n_features)
    best = np.divide(power + mean**2, spread, out=np.ones_like(mean), where=spread > 0)
    return np.asarray(np.minimum(best, 1.0))


class Lengths(NamedTuple):
    """(n,) What leaving out each row takes off W: ``growth`` times its squared residual; ``alone``: its class too."""

    alone: BoolArray
    growth: FloatArray
    taken: FloatArray


class Inverses(NamedTuple):
    """The inverse of the covariance without each row: ``1 / floor`` outside of the axes and, with the row, within.

    Attributes:
        precision: (n, r) in the axes, of all rows but under the slope and the floor without one. floor: (n,).
        solved: (n, r) each residual times its precision. feedback: (n,) how much the square of a product with it adds.
    """

    precision: FloatArray
    floor: FloatArray
    solved: FloatArray
    feedback: FloatArray


class Scatter(NamedTuple):
    """Rows around their class means, in the eigenvectors of their scatter.

    Attributes:
        means: (c, d). labels: (n,) in 0..c-1. axes: (d, r) orthonormal, their span holds all residuals.
        values: (r,) eigenvalues. residuals: (n, r) rows less their class mean, in these axes.
    """

    means: FloatArray
    labels: LabelArray
    axes: FloatArray
    values: FloatArray
    residuals: FloatArray

    @property
    def freedom(self) -> int:
        """Rows less classes."""
        return len(self.labels) - len(self.means)

    def shares(self, fixed: float | None = None) -> WithAndWithout:
        """``fixed`` for all, or what :func:`estimate_shares` says."""
        if fixed is not None:
            return WithAndWithout(np.full(1, fixed), np.full(len(self.labels), fixed))
        n_features, left = self.means.shape[1], self._left_out()
        trace, square = self.values.sum(keepdims=True), (self.values**2).sum(keepdims=True)
        crossed = left.growth * (self.residuals**2 @ self.values)
        return WithAndWithout(
            estimate_shares(trace, square, np.array([float(self.freedom)]), n_features),
            estimate_shares(
                trace - left.taken, square - 2 * crossed + left.taken**2, self._freedom_without(left), n_features
            ),
        )

    def variances(self) -> WithAndWithout:
        """The mean variance of a feature around the class means."""
        left, n_features = self._left_out(), self.means.shape[1]
        trace = self.values.sum(keepdims=True)
        without = (trace - left.taken) / self._freedom_without(left)
        return WithAndWithout(trace / self.freedom / n_features, without / n_features)

    def shrink(self, shares: WithAndWithout) -> Shrunk:
        """The covariance of all rows."""
        freedom = np.array([float(self.freedom)])
        return shrink(self.values.sum(keepdims=True), freedom, self.means.shape[1], shares.whole)

    def distances_without(self, shares: WithAndWithout) -> FloatArray:
        """(n, c) squared Mahalanobis distance of each row to the class means, all fitted without that row.

        Infinite to the class of a row that is the only one of its class.
        """
        inverse, (inside, outside) = self._invert_without(shares), self._split(self.means)
        away = self.residuals + inside[self.labels]
        # |a - m|^2 as a a - 2 a m + m m: three products of matrices, where a class at a time takes c passes.
        far = np.einsum("nr,nr->n", away**2, inverse.precision)[:, None] - 2 * (away * inverse.precision) @ inside.T
        far += inverse.precision @ (inside**2).T
        beyond = cdist(outside, outside, "sqeuclidean")  # rows leave the axes by their mean alone
        far += beyond[self.labels] / inverse.floor[:, None]
        crossed = np.einsum("nr,nr->n", inverse.solved, away)[:, None] - inverse.solved @ inside.T
        return self._leave_out(far, crossed, inverse)

    def distances_from(self, X: FloatArray, shares: WithAndWithout) -> FloatArray:
        """(m, n, c) squared distance of (m, d) other rows to the class means, all fitted without each of the n rows."""
        inverse, (inside, outside), (away, rest) = self._invert_without(shares), self._split(self.means), self._split(X)
        far = (away**2 @ inverse.precision.T)[:, :, None] + inverse.precision @ (inside**2).T
        for mean, column in zip(inside, np.moveaxis(far, 2, 0), strict=True):
            column -= 2 * (away * mean) @ inverse.precision.T
        far += cdist(rest, outside, "sqeuclidean")[:, None] / inverse.floor[:, None]
        crossed = (away @ inverse.solved.T)[:, :, None] - inverse.solved @ inside.T
        return self._leave_out(far, crossed, inverse)

    def _invert_without(self, shares: WithAndWithout) -> Inverses:
        left = self._left_out()
        freedom, n_features = self._freedom_without(left), self.means.shape[1]
        shrunk = shrink(self.values.sum() - left.taken, freedom, n_features, shares.without)
        precision = 1 / (shrunk.slope[:, None] * self.values + shrunk.floor[:, None])
        solved = self.residuals * precision
        taken = left.growth * shrunk.slope
        feedback = taken / (1 - taken * np.einsum("nr,nr->n", self.residuals, solved))
        return Inverses(precision, shrunk.floor, solved, feedback)

    def _split(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(k, d) rows less the mean of the class means: (k, r) in the axes, and (k, d) what these leave of them."""
        centred = rows - self.means.mean(axis=0)
        inside = centred @ self.axes
        return inside, centred - inside @ self.axes.T

    def _leave_out(self, far: FloatArray, crossed: FloatArray, inverse: Inverses) -> FloatArray:
        """(..., n, c) squared distances under ``precision``, and products with ``solved``, to those without each row.

        A row takes its share of the scatter with it, and its class mean moves away from it by 1 / (k - 1) of its z.
        """
        left, own = self._left_out(), (..., np.arange(len(self.labels)), self.labels)
        step, within = left.growth - 1, np.einsum("nr,nr->n", self.residuals, inverse.solved)
        far[own] += 2 * step * crossed[own] + step**2 * within
        crossed[own] += step * within
        far += inverse.feedback[:, None] * crossed**2
        far[own] = np.where(left.alone, np.inf, far[own])
        return far

    def _left_out(self) -> Lengths:
        counts = np.bincount(self.labels, minlength=len(self.means))[self.labels]
        alone = counts == 1  # its class goes with it, and takes nothing off the scatter
        growth = np.where(alone, 0.0, counts / np.maximum(counts - 1, 1))
        return Lengths(alone, growth, growth * (self.residuals**2).sum(axis=1))

    def _freedom_without(self, left: Lengths) -> FloatArray:
        return np.asarray(self.freedom - 1.0 + left.alone)


def measure_scatter(rows: FloatArray, labels: LabelArray) -> Scatter:
    """Of (n, d) rows with (n,) labels in 0..c-1, each of which occurs."""
    counts = np.bincount(labels)
    means = np.zeros((len(counts), rows.shape[1]))
    np.add.at(means, labels, rows)
    means /= counts[:, None]
    residuals = rows - means[labels]
    if len(rows) > rows.shape[1]:
        values, axes = np.linalg.eigh(residuals.T @ residuals)
        values = np.maximum(values, 0.0)
    else:
        _, singular, turned = np.linalg.svd(residuals, full_matrices=False)
        values, axes = singular**2, turned.T
    return Scatter(means, labels, np.ascontiguousarray(axes), values, residuals @ axes)
