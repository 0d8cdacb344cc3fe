"""Every known picture is kept and votes for its class, the louder the nearer it is."""

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
from clip_fewshot.probes.blend import BETA_SD, settle_scale, usual_weight
from clip_fewshot.probes.checked import check_fitted, checked_rows
from clip_fewshot.probes.support import draw_stand_ins, draw_twins, is_alone, read_new_class, read_support
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

CACHE_BETAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
BETA = 5.5  # Tip-Adapter's own
MOST_LEFT_OUT = 2000  # pictures at most that are left out in turn
AFFINITY_BLOCK = 1 << 22  # affinities held at a time, 32 MiB


class CacheProbe(FromLogits, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Mean of exp(-beta (1 - cosine)) over the pictures of each class, times a scale.

    The cache of Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", 2022, eq. 5,
    without the zero-shot logits, which arrays alone do not give. On rows of unit length it is a radial basis function
    network. Theirs is a sum over equal numbers of shots; the mean does not favour a class for having more. Rows are
    centred as in :class:`clip_fewshot.probes.prototype.PrototypeProbe`, which is this probe as beta goes to 0.

    Args:
        beta: sharpness, > 0. scale: factor on the affinities, > 0. None: those with the least loss on pictures left out
            of the cache, where beta is drawn to the published 5.5; where a class has a single picture, it is 5.5.

    Attributes:
        classes_: (c,) labels, see :class:`clip_fewshot.probes.base.Probe`. keys_: (n, d) unit rows, class by class.
        counts_: (c,) how many of them each class has. centre_: (d,). beta_, scale_: those used.
    """

    def __init__(self, beta: float | None = None, scale: float | None = None) -> None:
        self.beta = beta
        self.scale = scale

    def fit(self, X: FloatArray, y: NDArray[Any]) -> CacheProbe:
        """Keep (n, d) features and (n,) labels (integers or strings) of at least two classes."""
        support = read_support(self, X, y)
        for name, value in (("beta", self.beta), ("scale", self.scale)):
            if value is not None:
                require_real(value, name, "(0, inf)", "cache", "choose a positive number, or None")
        self.classes_, self.together_ = support.classes, len(support.classes)
        self.centre_ = support.unit.mean(axis=0)
        order = np.argsort(support.labels, kind="stable")
        self.keys_, self.counts_ = unit_rows(support.unit - self.centre_)[order], np.bincount(support.labels)
        self._choose(support.labels[order], order)
        return self

    def _choose(self, labels: LabelArray, order: IndexArray) -> None:
        """Settle beta_ and scale_ on pictures that are left out in turn."""
        betas = CACHE_BETAS if self.beta is None else (float(self.beta),)
        if self.beta is None and is_alone(labels).any():
            betas = (BETA,)
        which = np.arange(len(labels))
        if len(which) > MOST_LEFT_OUT:
            which = np.sort(generator(0, "cache probe").choice(which, MOST_LEFT_OUT, replace=False))
        asked, best = draw_stand_ins(self.keys_, labels), np.inf
        twins = draw_twins(self.keys_, labels)[0]
        for beta in betas:
            votes = np.stack([self._leave_out(rows[which], which, labels, beta) for rows in asked])
            expected = self._votes(twins, self.keys_, self.counts_, beta)
            scale, cost = settle_scale(votes, labels[which], usual_weight(expected), self.scale)
            cost += np.log(beta / BETA) ** 2 / (2 * BETA_SD**2)
            if cost < best:
                best, self.beta_, self.scale_ = cost, beta, scale
        every = np.arange(len(labels))
        votes = np.stack([self._leave_out(rows, every, labels, self.beta_) for rows in asked])
        self._draws = np.empty_like(votes)
        self._draws[:, order] = self.scale_ * votes

    def _leave_out(self, asked: FloatArray, which: IndexArray, labels: LabelArray, beta: float) -> FloatArray:
        """(m, c) votes for (m, d) rows that stand in for those keys, none of which votes unless it is alone."""
        votes, own, at = self._votes(asked, self.keys_, self.counts_, beta), labels[which], np.arange(len(which))
        counts = self.counts_[own]
        itself = np.exp(beta * (np.einsum("md,md->m", asked, self.keys_[which]) - 1))
        others = (counts * votes[at, own] - itself) / np.maximum(counts - 1, 1)
        votes[at, own] = np.where(counts > 1, others, votes[at, own])
        return votes

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c) scaled mean affinities, columns as ``classes_``."""
        X = checked_rows(self, X)
        rows = unit_rows(unit_rows(X) - self.centre_)
        k = self.together_
        # The classes of the fit in one product, each later one in its own: no product may depend on what came later.
        sizes = [int(self.counts_[:k].sum()), *self.counts_[k:].tolist()]
        parts = np.split(self.keys_, np.cumsum(sizes)[:-1])
        counts = [self.counts_[:k], *self.counts_[k:, None]]
        return np.hstack(
            [self.scale_ * self._votes(rows, keys, own, self.beta_) for keys, own in zip(parts, counts, strict=True)]
        )

    def _votes(self, rows: FloatArray, keys: FloatArray, counts: NDArray[np.int64], beta: float) -> FloatArray:
        """(n, c) for the c classes whose keys these are; a picture's votes do not depend on the others."""
        votes, size = np.empty((len(rows), len(counts))), max(1, AFFINITY_BLOCK // len(keys))
        for start in range(0, len(rows), size):
            near = np.exp(beta * (rows[start : start + size] @ keys.T - 1))
            votes[start : start + size] = np.add.reduceat(near, _starts(counts), axis=1) / counts
        return votes

    def extend(self, X: FloatArray, label: Any, known: FloatArray | None = None) -> CacheProbe:
        """A probe with one class more, see :meth:`clip_fewshot.probes.base.Probe.extend`; ``known`` is not needed."""
        check_fitted(self)
        unit, extended = read_new_class(self, X), copy.copy(self)
        extended.classes_, extended._draws = append_class(self.classes_, label), None
        extended.keys_ = np.vstack([self.keys_, unit_rows(unit - self.centre_)])
        extended.counts_ = np.append(self.counts_, len(X))
        return extended

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned, as plain arrays (``classes`` is numeric or fixed-width text: no pickle)."""
        check_fitted(self)
        classes = self.classes_ if self.classes_.dtype != object else self.classes_.astype(str)
        numbers = {"beta": self.beta_, "scale": self.scale_, "together": self.together_}
        arrays = {"keys": self.keys_, "counts": self.counts_, "centre": self.centre_, "classes": classes}
        return arrays | {name: np.array(value) for name, value in numbers.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> CacheProbe:
        """The probe that :meth:`to_arrays` came from, ready to predict."""
        probe = cls(beta=float(arrays["beta"]), scale=float(arrays["scale"]))
        probe.keys_, probe.counts_, probe.classes_ = arrays["keys"], arrays["counts"], arrays["classes"]
        probe.beta_, probe.scale_ = float(arrays["beta"]), float(arrays["scale"])
        probe.centre_, probe.together_ = arrays["centre"], int(arrays["together"])
        probe.n_features_in_ = arrays["keys"].shape[1]
        return probe


def _starts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(counts) - counts
