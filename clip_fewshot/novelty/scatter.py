"""A shrunk covariance around class means, and what becomes of it when one row is left out.

With W the scatter of the rows around their class means and N - c degrees of freedom, the covariance is
(1 - s) W / (N - c) + s t I, t the mean variance of a feature. All is written in the eigenvectors of W, where such a
matrix is diagonal for every s. Leaving out row i of a class of k takes k / (k - 1) z z' off W, z being the row less its
class mean: a change of rank one (Sherman, Morrison, 1950), while s and t follow from the traces of W and W W.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clip_fewshot.types import FloatArray, LabelArray


class Shrunk(NamedTuple):
    """The covariance ``slope W + floor I``."""

    slope: FloatArray
    floor: FloatArray


def shrink(trace: FloatArray, square: FloatArray, freedom: FloatArray, n_features: int, share: float | None) -> Shrunk:
    """Shrinkage from the traces of W and W W, for as many scatters as there are numbers in each.

    Args:
        freedom: degrees of freedom, >= 1. The rows turned by contrasts within their classes are that many rows
            of mean 0 with the same scatter, so they take the place of the sample size.
        share: s in (0, 1]; None: the one of Chen, Wiesel, Eldar, Hero, "Shrinkage Algorithms for MMSE Covariance
            Estimation", 2010 (OAS), as scikit-learn computes it.
    """
    mean = trace / freedom / n_features
    if share is None:
        power = square / freedom**2 / n_features**2
        spread = (freedom + 1) * (power - mean**2 / n_features)
        best = np.divide(power + mean**2, spread, out=np.ones_like(mean), where=spread > 0)
        shares = np.minimum(best, 1.0)
    else:
        shares = np.full_like(mean, share)
    return Shrunk((1 - shares) / freedom, shares * mean)


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

    def shrink(self, share: float | None) -> Shrunk:
        """The covariance of all rows."""
        trace, square = self.values.sum(keepdims=True), (self.values**2).sum(keepdims=True)
        return shrink(trace, square, np.array([float(self.freedom)]), self.means.shape[1], share)

    def nearest_without(self, share: float | None) -> FloatArray:
        """(n,) squared Mahalanobis distance of each row to the nearest class mean, both fitted without that row."""
        n, (c, d) = len(self.labels), self.means.shape
        counts = np.bincount(self.labels, minlength=c)[self.labels]
        alone = counts == 1  # its class goes with it, and takes nothing off the scatter
        growth = np.where(alone, 0.0, counts / np.maximum(counts - 1, 1))
        length = (self.residuals**2).sum(axis=1)
        shrunk = shrink(
            self.values.sum() - growth * length,
            (self.values**2).sum() - 2 * growth * (self.residuals**2 @ self.values) + (growth * length) ** 2,
            self.freedom - 1.0 + alone,
            d,
            share,
        )
        variances = shrunk.slope[:, None] * self.values + shrunk.floor[:, None]
        solved = self.residuals / variances
        taken = growth * shrunk.slope
        feedback = taken / (1 - taken * np.einsum("nr,nr->n", self.residuals, solved))
        inside = self.means @ self.axes
        outside = self.means - inside @ self.axes.T
        best = np.full(n, np.inf)
        for k in range(c):
            own = self.labels == k
            away = self.residuals + inside[self.labels] - inside[k]
            away[own] = growth[own, None] * self.residuals[own]
            beyond = ((outside - outside[k]) ** 2).sum(axis=1)[self.labels]  # rows leave the axes by their mean alone
            far = np.einsum("nr,nr->n", away**2, 1 / variances) + beyond / shrunk.floor
            far += feedback * np.einsum("nr,nr->n", solved, away) ** 2
            far[own & alone] = np.inf
            best = np.minimum(best, far)
        return best


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
