"""The logits of any probe of this library as arrays in one formula, for programs that have no probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes import PROBES
from clip_fewshot.probes.base import Probe
from clip_fewshot.probes.cache import CacheProbe
from clip_fewshot.probes.cross_modal import CrossModalProbe
from clip_fewshot.probes.gaussian import GaussianProbe
from clip_fewshot.probes.joined import JoinedProbe
from clip_fewshot.probes.kernel_ridge import KernelRidgeProbe
from clip_fewshot.probes.logistic import LinearProbe
from clip_fewshot.probes.prototype import PrototypeProbe
from clip_fewshot.probes.text_prior import TextPriorProbe
from clip_fewshot.probes.zero_shot import ZeroShotProbe
from clip_fewshot.types import FloatArray, IndexArray


@dataclass(frozen=True, eq=False)
class LogitFormula:
    """logits(x) = weights q + intercept + moved r + duals' exp(beta (keys r - 1)), with q = x / |x| and r of length 1.

    Attributes:
        weights: (c, d). intercept: (c,).
        centre: (d,), r is the direction of q - centre. moved: (c, d), None where no term reads r alone.
        keys: (n, d) and duals: (n, c) of the kernel, None where there is none. beta: its sharpness.

    Example:
        >>> import numpy as np
        >>> from clip_fewshot.probes import PrototypeProbe
        >>> from clip_fewshot.probes.formulas import write_formula
        >>> X = np.eye(4)
        >>> probe = PrototypeProbe().fit(X, np.array([0, 0, 1, 1]))
        >>> bool(np.allclose(write_formula(probe).logits(X), probe.logits(X)))
        True
    """

    weights: FloatArray
    intercept: FloatArray
    centre: FloatArray
    moved: FloatArray | None = None
    keys: FloatArray | None = None
    duals: FloatArray | None = None
    beta: float = 0.0

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, d) features -> (n, c)."""
        unit = unit_rows(X)
        rows, found = unit_rows(unit - self.centre), unit @ self.weights.T + self.intercept
        if self.moved is not None:
            found = found + rows @ self.moved.T
        if self.keys is not None:
            found = found + np.exp(self.beta * (rows @ self.keys.T - 1)) @ self.duals
        return np.asarray(found)

    def scaled(self, factor: float) -> LogitFormula:
        """Of logits times ``factor``."""
        return self._each(lambda rows: factor * rows, lambda duals: factor * duals)

    def ordered(self, order: IndexArray) -> LogitFormula:
        """Of the classes in another order, as ``np.argsort`` gives it."""
        return self._each(lambda rows: rows[order], lambda duals: duals[:, order])

    def _each(self, rows: Callable[[Any], Any], duals: Callable[[Any], Any]) -> LogitFormula:
        return replace(
            self,
            weights=rows(self.weights),
            intercept=rows(self.intercept),
            moved=None if self.moved is None else rows(self.moved),
            duals=None if self.duals is None else duals(self.duals),
        )


def write_formula(probe: Probe) -> LogitFormula:
    """The formula of a fitted member of ``PROBES``, columns as its ``classes_``.

    Raises:
        UsageError: a probe of another class: what it computes is not known.
    """
    part: Any = probe
    if type(probe) not in PROBES.values():
        fix, got = "choose one of these", type(probe).__name__
        raise UsageError(expected=f"a probe out of {', '.join(PROBES)}", got=got, fix=fix, where="probe")
    if isinstance(part, JoinedProbe):
        pictures = write_formula(part._part).scaled(part.picture_scale_)
        return replace(pictures, weights=pictures.weights + part.text_scale_ * part.texts_)
    if isinstance(part, CrossModalProbe):
        return write_formula(part._part)
    return next(write(part) for kind, write in WRITERS.items() if isinstance(part, kind))


def _plain(weights: FloatArray, intercept: FloatArray | None = None) -> LogitFormula:
    zeros = np.zeros(len(weights))
    return LogitFormula(weights, zeros if intercept is None else intercept, np.zeros(weights.shape[1]))


def _of_logistic(probe: LinearProbe) -> LogitFormula:
    coef, intercept = probe.coef_, probe.intercept_
    if probe.together_ == 1:  # one row tells two classes
        coef = np.vstack([-coef[:1] / 2, coef[:1] / 2, coef[1:]])
        intercept = np.concatenate([-intercept[:1] / 2, intercept[:1] / 2, intercept[1:]])
    return _plain(coef, intercept)


def _of_prototypes(probe: PrototypeProbe) -> LogitFormula:
    nothing = _plain(np.zeros_like(probe.means_))
    return replace(nothing, centre=probe.centre_, moved=probe.scale_ * probe.means_)


def _of_cache(probe: CacheProbe) -> LogitFormula:
    nothing = _plain(np.zeros((len(probe.counts_), probe.keys_.shape[1])))
    shares = np.repeat(np.diag(probe.scale_ / probe.counts_), probe.counts_, axis=0)
    return replace(nothing, centre=probe.centre_, keys=probe.keys_, duals=shares, beta=probe.beta_)


def _of_text_prior(probe: TextPriorProbe) -> LogitFormula:
    found = _plain(probe.coef_, probe.intercept_)
    return replace(found, centre=probe.centre_, moved=probe.directions_) if len(probe.directions_) else found


def _of_gaussians(probe: GaussianProbe) -> LogitFormula:
    intercept = probe.intercept_ - probe.coef_ @ probe.centre_
    return _plain(probe.scale_ * probe.coef_, probe.scale_ * intercept)


def _of_kernel_ridge(probe: KernelRidgeProbe) -> LogitFormula:
    keys, found = unit_rows(probe.rows_ - probe.centre_), _plain(probe.scale_ * probe.texts_)
    return replace(found, centre=probe.centre_, keys=keys, duals=probe.scale_ * probe.dual_, beta=probe.beta_)


WRITERS: Mapping[type[Any], Callable[[Any], LogitFormula]] = {
    LinearProbe: _of_logistic,
    PrototypeProbe: _of_prototypes,
    CacheProbe: _of_cache,
    TextPriorProbe: _of_text_prior,
    ZeroShotProbe: lambda probe: _plain(probe.scale_ * probe.texts_),
    GaussianProbe: _of_gaussians,
    KernelRidgeProbe: _of_kernel_ridge,
}
