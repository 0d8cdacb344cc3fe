"""Gaussian discriminant analysis with a shrunk precision: one Gaussian a class, one shape for all."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import FromLogits, append_class, multiply_rows
from clip_fewshot.probes.blend import settle_scale, usual_weight
from clip_fewshot.probes.checked import check_fitted, checked_rows
from clip_fewshot.probes.joined import JoinedProbe
from clip_fewshot.probes.support import Support, draw_stand_ins, draw_twins, is_alone, read_new_class, read_support
from clip_fewshot.types import FloatArray, LabelArray


class GaussianProbe(ClassifierMixin, FromLogits, BaseEstimator):  # type: ignore[misc]
    """logits = a (q P mu_j - mu_j P mu_j / 2), with P the precision that all classes share.

    Wang, Liang, Sheng, He, Wang, Tan, "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", 2024,
    section 3.1. The precision is theirs, after Kubokawa and Srivastava, "Estimation of the precision matrix of a
    singular Wishart distribution", 2008: P ~ (G + tr(G) / (n - 1) I)^-1, with G the scatter of the n rows around the
    means of their classes. Its length is absorbed in a, which makes the left-out logits likeliest. One picture a class
    has no scatter, and P is the identity.

    Attributes:
        classes_: (c,) labels. centre_: (d,) mean of the unit rows of the fit. precision_: (d, d) P. coef_: (c, d)
            P mu_j, of means less the centre. intercept_: (c,). scale_: a.
    """

    def fit(self, X: FloatArray, y: NDArray[Any]) -> GaussianProbe:
        """Learn from (n, d) features and (n,) labels of at least two classes."""
        support = read_support(self, X, y)
        self.classes_, self.together_ = support.classes, len(support.classes)
        self.centre_ = support.unit.mean(axis=0)
        rows, labels = support.unit - self.centre_, support.labels
        scatter = measure_scatter(support, rows)
        self.precision_ = (scatter.axes / (scatter.values + scatter.ridge)) @ scatter.axes.T
        self.coef_ = scatter.means @ self.precision_
        self.intercept_ = -(self.coef_ * scatter.means).sum(axis=1) / 2
        left_out = np.stack([leave_out(labels, rows, asked, scatter) for asked in draw_stand_ins(rows, labels)])
        usual = usual_weight(draw_twins(rows, labels) @ self.coef_.T + self.intercept_)
        self.scale_, _ = settle_scale(left_out, labels, usual)
        self._draws = self.scale_ * left_out
        return self

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``."""
        rows = unit_rows(checked_rows(self, X)) - self.centre_
        return self.scale_ * multiply_rows(rows, self.coef_, self.intercept_, self.together_)

    def extend(self, X: FloatArray, label: Any, known: FloatArray | None = None) -> GaussianProbe:
        """A probe with one class more, see :meth:`clip_fewshot.probes.base.Probe.extend`; ``known`` is not needed."""
        check_fitted(self)
        mean = read_new_class(self, X).mean(axis=0) - self.centre_
        extended = copy.copy(self)
        extended.classes_, extended._draws = append_class(self.classes_, label), None
        row = self.precision_ @ mean
        extended.coef_, extended.intercept_ = np.vstack([self.coef_, row]), np.append(self.intercept_, -row @ mean / 2)
        return extended


class GaussianTextProbe(JoinedProbe):
    """logits = s q t_j + a (q P mu_j - mu_j P mu_j / 2), section 3.2 of the paper of :class:`GaussianProbe`.

    The paper chooses the weight of the Gaussians on a validation set; here left-out pictures do.
    """

    part = GaussianProbe


class WithinScatter(NamedTuple):
    """Of rows around the means of their classes: axes diag(values) axes^T, plus ``ridge`` where inverted."""

    means: FloatArray  # (c, d)
    values: FloatArray  # (d,)
    axes: FloatArray  # (d, d)
    ridge: float


def measure_scatter(support: Support, rows: FloatArray) -> WithinScatter:
    """Of (n, d) centred rows; 0 and a ridge of 1 where each class has one row."""
    one_hot = support.one_hot
    means = one_hot.T @ rows / one_hot.sum(axis=0)[:, None]
    within = rows - means[support.labels]
    values, axes = np.linalg.eigh(within.T @ within)
    total = float((within**2).sum())
    return WithinScatter(means, np.maximum(values, 0.0), axes, total / (len(rows) - 1) if total > 0 else 1.0)


def leave_out(labels: LabelArray, rows: FloatArray, asked: FloatArray, scatter: WithinScatter) -> FloatArray:
    """(n, c) logits, at scale 1, of what is asked under the Gaussians of all (n, d) centred rows but its own.

    Without a row r away from the mean of its k, that mean moves by -r / (k - 1), and G loses k / (k - 1) r r^T, whose
    inverse follows by the formula of Sherman and Morrison. The only picture of a class stays, and a twin is asked.
    """
    n = len(rows)
    counts = np.bincount(labels)[labels]
    others = np.maximum(counts - 1, 1)
    lost = np.where(is_alone(labels), 0.0, counts / others)
    means, asked = scatter.means @ scatter.axes, asked @ scatter.axes
    away = rows @ scatter.axes - means[labels]
    ridge = (scatter.values.sum() - lost * (away**2).sum(axis=1)) / max(n - 2, 1)
    ridge = np.where((lost > 0) & (ridge > 1e-9 * scatter.ridge), ridge, scatter.ridge)
    inverse = 1 / (scatter.values + ridge[:, None])  # (n, d) of G and the ridge without row i
    turned = away * inverse
    gain = lost / (1 - lost * (away * turned).sum(axis=1))

    def product(a: FloatArray, b: FloatArray) -> FloatArray:
        """(n,) a_i P_i b_i, with P_i the precision without row i."""
        return np.asarray((a * inverse * b).sum(axis=1) + gain * (a * turned).sum(axis=1) * (b * turned).sum(axis=1))

    seen = turned @ means.T
    logits = (asked * inverse) @ means.T + (gain * (asked * turned).sum(axis=1))[:, None] * seen
    logits -= (inverse @ (means**2).T + gain[:, None] * seen**2) / 2
    moved = means[labels] - np.where(lost > 0, 1 / others, 0.0)[:, None] * away
    logits[np.arange(n), labels] = product(asked, moved) - product(moved, moved) / 2
    return np.asarray(logits)
