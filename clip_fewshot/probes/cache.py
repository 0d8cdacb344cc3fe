"""Every known picture is kept and votes for its class, the louder the nearer it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import FromLogits, append_class, mean_loss
from clip_fewshot.probes.support import is_alone, twin_share
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

CACHE_BETAS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
CACHE_SCALES = 2.0 ** np.arange(1, 11)
BETA, SCALE = 5.5, 32.0  # beta: Tip-Adapter's own; both where no picture can be left out
MOST_LEFT_OUT = 2000  # pictures at most that are left out in turn
AFFINITY_BLOCK = 1 << 22  # affinities held at a time, 32 MiB


class CacheProbe(FromLogits, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Mean of exp(-beta (1 - cosine)) over the pictures of each class, times a scale.

    The cache of Zhang et al., "Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification", 2022, eq. 5,
    without the zero-shot logits, which arrays alone do not give. On rows of unit length it is a radial basis function
    network. Theirs is a sum over equal numbers of shots; the mean does not favour a class for having more. Rows are
    centred as in :class:`clip_fewshot.probes.prototype.PrototypeProbe`, which is this probe as beta goes to 0.

    Args:
        beta: sharpness, > 0. scale: factor on the affinities, > 0. None: those of a grid with the least loss on
            pictures left out of the cache; without two pictures of some class 5.5, as published, and 32.

    Attributes:
        classes_: (c,) labels, see :class:`clip_fewshot.probes.base.Probe`. keys_: (n, d) unit rows, class by class.
        counts_: (c,) how many of them each class has. centre_: (d,). beta_, scale_: those used.
    """

    _order: IndexArray | None = None  # of the rows of the fit

    def __init__(self, beta: float | None = None, scale: float | None = None) -> None:
        self.beta = beta
        self.scale = scale

    def fit(self, X: FloatArray, y: NDArray[Any]) -> CacheProbe:
        """Keep (n, d) features and (n,) labels (integers or strings) of at least two classes."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UsageError(
                expected="labels of at least 2 classes",
                got="one class",
                fix="add images of another class",
                where="cache",
            )
        for name, value in (("beta", self.beta), ("scale", self.scale)):
            if value is not None and not value > 0:
                raise UsageError(
                    expected=f"{name} > 0", got=str(value), fix="choose a positive number, or None", where="cache"
                )
        unit = unit_rows(X)
        self.centre_ = unit.mean(axis=0)
        self._order = order = np.argsort(labels, kind="stable")
        self.keys_, self.counts_ = unit_rows(unit - self.centre_)[order], np.bincount(labels)
        self.together_ = len(self.classes_)
        self.beta_, self.scale_ = self._choose(labels[order])
        return self

    def _choose(self, labels: LabelArray) -> tuple[float, float]:
        betas = CACHE_BETAS if self.beta is None else (float(self.beta),)
        scales = CACHE_SCALES.tolist() if self.scale is None else [float(self.scale)]
        several = np.flatnonzero(self.counts_[labels] > 1)
        if len(betas) * len(scales) == 1 or not len(several):
            return float(self.beta or BETA), float(self.scale or SCALE)
        if len(several) > MOST_LEFT_OUT:
            several = np.sort(generator(0, "cache probe").choice(several, MOST_LEFT_OUT, replace=False))
        own, everyone = labels[several], np.ones(len(several), dtype=bool)
        found: dict[tuple[float, float], float] = {}
        for beta in betas:
            votes = self._leave_out(several, labels, beta)
            found |= {(beta, scale): mean_loss(scale * votes, own, everyone) for scale in scales}
        return min(found, key=lambda point: found[point])

    def _leave_out(self, which: IndexArray, labels: LabelArray, beta: float) -> FloatArray:
        """(m, c) votes for those keys without their own; of a twin, where the class has no other."""
        alone, own, at = is_alone(labels)[which], labels[which], np.arange(len(which))
        cosines = self.keys_[which] @ self.keys_.T
        if alone.any():
            cosines *= twin_share(self.keys_, labels)[which]
        near = np.exp(-beta * (1 - cosines))
        near[at[~alone], which[~alone]] = 0
        votes = np.add.reduceat(near, _starts(self.counts_), axis=1) / self.counts_
        votes[at, own] *= self.counts_[own] / np.maximum(self.counts_[own] - 1, 1)
        return np.asarray(votes)

    def left_out_logits(self) -> FloatArray | None:
        """(n, c) of each picture of the fit under the cache of the others, in the order of its rows."""
        if self._order is None:
            return None
        labels, logits = np.repeat(np.arange(self.together_), self.counts_), np.empty((len(self.keys_), self.together_))
        for rows in np.array_split(np.arange(len(labels)), -(-len(labels) ** 2 // AFFINITY_BLOCK)):
            logits[self._order[rows]] = self.scale_ * self._leave_out(rows, labels, self.beta_)
        return logits

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c) scaled mean affinities, columns as ``classes_``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        rows = unit_rows(unit_rows(X) - self.centre_)
        k = self.together_
        # The classes of the fit in one product, each later one in its own: no product may depend on what came later.
        sizes = [int(self.counts_[:k].sum()), *self.counts_[k:].tolist()]
        parts = np.split(self.keys_, np.cumsum(sizes)[:-1])
        counts = [self.counts_[:k], *self.counts_[k:, None]]
        return np.hstack([self._votes(rows, keys, own) for keys, own in zip(parts, counts, strict=True)])

    def _votes(self, rows: FloatArray, keys: FloatArray, counts: NDArray[np.int64]) -> FloatArray:
        """(n, c) for the c classes whose keys these are; a picture's votes do not depend on the others."""
        votes, size = np.empty((len(rows), len(counts))), max(1, AFFINITY_BLOCK // len(keys))
        for start in range(0, len(rows), size):
            near = np.exp(self.beta_ * (rows[start : start + size] @ keys.T - 1))
            votes[start : start + size] = np.add.reduceat(near, _starts(counts), axis=1) / counts
        return self.scale_ * votes

    def extend(self, X: FloatArray, label: Any, known: FloatArray | None = None) -> CacheProbe:
        """A probe with one class more, see :meth:`clip_fewshot.probes.base.Probe.extend`; ``known`` is not needed."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        extended = copy.copy(self)
        extended.classes_, extended._order = append_class(self.classes_, label), None
        extended.keys_ = np.vstack([self.keys_, unit_rows(unit_rows(X) - self.centre_)])
        extended.counts_ = np.append(self.counts_, len(X))
        return extended

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned, as plain arrays (``classes`` is numeric or fixed-width text: no pickle)."""
        check_is_fitted(self)
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
