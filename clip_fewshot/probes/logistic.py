"""The linear probe: logistic regression on L2-normalised features, converged, with C searched on folds."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from threadpoolctl import ThreadpoolController

from clip_fewshot.config.ranges import require_real
from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.added_row import fit_row
from clip_fewshot.probes.base import append_class, multiply_rows
from clip_fewshot.probes.checked import check_fitted, checked, checked_rows
from clip_fewshot.probes.penalty import (
    HIGHEST,
    LOWEST,
    Folds,
    SearchedC,
    UsualC,
    drop_unusable,
    search_penalty,
    split_stratified,
)
from clip_fewshot.probes.softmax import CentredRows, SoftmaxProblem, centre_rows
from clip_fewshot.probes.solver import solve
from clip_fewshot.runtime.arrays import as_labels, check_indices
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

SERIAL_COST = 20_000_000  # multiplications per evaluation; below, waking BLAS threads costs 50 times what it saves


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Multinomial logistic regression on L2-normalised, centred features, as CLIP's linear probe.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 3.2 and
    appendix A.3, whose search for C (coarse, then halving steps around the best) this follows; ours is warm-started
    and solves each fit to a stated gap (:mod:`clip_fewshot.probes.solver`). The objective is that of scikit-learn's
    ``LogisticRegression(C)``; binary problems have one row of coefficients, as there.

    Args:
        C: inverse strength of the L2 penalty, > 0; None searches 1e-6..1e6 for the least held-out loss on ``folds``,
            drawn to its usual value where few pictures are held out (:class:`~clip_fewshot.probes.penalty.UsualC`).
        folds: (train rows, validation rows) pairs, or a number of stratified folds >= 2. A class needs two rows to be
            both learned and checked; where no class has two, C has its usual value and ``note_`` says so.
        seed: of the fold assignment when ``folds`` is a number.

    Attributes:
        classes_: (c,) labels. coef_: (c, d), or (1, d) for two classes, on normalised features. intercept_: (c,).
            A class that :meth:`extend` added is one more row; ``together_`` counts the rows of the fit.
        C_: the value used. C_at_edge_: the search ended on 1e-6 or 1e6. search_: every value tried, by C.
        gradient_norm_: of the objective at the end; the coefficients are at most this far from the optimum.
        objective_: its value. note_: what a reader of the result should know, or "".

    Example:
        >>> import numpy as np
        >>> import clip_fewshot as cf
        >>> X, y = np.random.default_rng(0).normal(size=(40, 8)), np.repeat(["a", "b"], 20)
        >>> X[:20, 0] += 4
        >>> cf.LinearProbe().fit(X, y).score(X, y) > 0.9
        True
    """

    takes_c: ClassVar[bool] = True

    def __init__(self, C: float | None = None, folds: int | Folds = 5, seed: int = 0) -> None:
        self.C = C
        self.folds = folds
        self.seed = seed

    def fit(self, X: FloatArray, y: NDArray[Any]) -> LinearProbe:
        """Learn from (n, d) features and (n,) labels (integers or strings) of at least two classes."""
        X, y = checked(self, X, y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            fix = "add images of another class"
            raise UsageError(expected="labels of at least 2 classes", got="one class", fix=fix, where="LinearProbe")
        small = X.size * len(self.classes_) < SERIAL_COST
        with _threads().limit(limits=1 if small else None, user_api="blas"):
            basis = centre_rows(unit_rows(X))
            problem = SoftmaxProblem.from_rows(basis.rows, labels, len(self.classes_))
            self._finish(problem, basis, self._choose(problem, labels))
        return self

    def _choose(self, problem: SoftmaxProblem, labels: LabelArray) -> FloatArray | None:
        """Settle C_; weights near its optimum, where the search has found some."""
        self.search_: tuple[SearchedC, ...] = ()
        self.C_at_edge_, self.note_ = False, ""
        if self.C is not None:
            fix = "choose a positive number, or None to search"
            self.C_ = require_real(self.C, "C", "(0, inf)", "LinearProbe", fix)
            return None
        folds = drop_unusable(
            split_stratified(labels, self.folds, self.seed)
            if isinstance(self.folds, int | np.integer)
            else _read_folds(self.folds, len(labels)),
            labels,
        )
        if not folds:
            self.C_ = 10.0 ** UsualC.of(problem, folds).exponent
            self.note_ = "too few images per class to search C: its usual value is taken"
            return None
        self.search_, chosen, weights = search_penalty(problem, folds)
        self.C_ = chosen.C
        self.C_at_edge_ = self.C_ in (10.0**LOWEST, 10.0**HIGHEST)
        self.note_ = f"the best C, {self.C_:g}, is an end of the range searched" if self.C_at_edge_ else ""
        return weights

    def _finish(self, problem: SoftmaxProblem, basis: CentredRows, start: FloatArray | None) -> None:
        """Solve at C_, and turn the weights back to coefficients on normalised features."""
        binary = len(self.classes_) == 2
        # With two classes the softmax weights are -w/2 and +w/2, whose penalty is half of |w|^2 / 2.
        solution = solve(problem, self.C_ / 2 if binary else self.C_, start)
        self.objective_ = float(solution.objective[0]) * (2 if binary else 1)
        self.gradient_norm_ = float(solution.gradient_norm[0]) * (2**0.5 if binary else 1)
        weights, intercept = solution.weights[0, :, :-1], solution.weights[0, :, -1]
        if basis.axes is not None:
            weights = weights @ basis.axes.T
        intercept = intercept - weights @ basis.mean
        intercept -= intercept.mean()  # only differences matter
        if binary:
            weights, intercept = weights[1:] - weights[:1], intercept[1:] - intercept[:1]
        self.coef_, self.intercept_ = np.ascontiguousarray(weights), intercept
        self.together_ = len(self.coef_)

    def extend(self, X: FloatArray, label: Any, known: FloatArray | None = None) -> LinearProbe:
        """A probe that knows the class ``label`` too; the :meth:`logits` of the others are the same bytes.

        The rows of the other classes stay and the new one is fitted against them, with the same C: a convex problem,
        :func:`clip_fewshot.probes.added_row.fit_row`.

        Args:
            X: (m, d) features of pictures of the new class. known: (n, d) features of those of the others.
        """
        check_fitted(self)
        if known is None or not len(known):
            fix = "pass those that the probe was fitted on"
            raise UsageError(expected="features of known pictures", got="none", fix=fix, where="known")
        X = checked_rows(self, X)
        rows = np.vstack([checked_rows(self, known), X])
        extended = copy.copy(self)
        extended.classes_ = append_class(self.classes_, label)
        weights, intercept = fit_row(unit_rows(rows), logsumexp(self.logits(rows), axis=1), len(X), self.C_)
        extended.coef_ = np.vstack([self.coef_, weights])
        extended.intercept_ = np.append(self.intercept_, intercept)
        return extended

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``; of two classes learned together the second is minus the first."""
        X = checked_rows(self, X)
        logits = multiply_rows(unit_rows(X), self.coef_, self.intercept_, self.together_)
        if self.together_ == 1:
            logits = np.hstack([-logits[:, :1] / 2, logits[:, :1] / 2, logits[:, 1:]])
        return logits

    def decision_function(self, X: FloatArray) -> FloatArray:
        """(n, c) logits; (n,) for two classes, positive for ``classes_[1]``."""
        check_fitted(self)
        if len(self.classes_) > 2:
            return self.logits(X)
        X = checked_rows(self, X)
        return np.asarray((unit_rows(X) @ self.coef_.T + self.intercept_).ravel())

    def predict_proba(self, X: FloatArray) -> FloatArray:
        """(n, c) class probabilities, columns as ``classes_``."""
        logits = self.decision_function(X)
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], axis=1)
        return np.asarray(softmax(logits, axis=1))

    def predict(self, X: FloatArray) -> NDArray[Any]:
        """(n,) labels out of ``classes_``."""
        logits = self.decision_function(X)
        return np.asarray(self.classes_[(logits > 0).astype(int) if logits.ndim == 1 else logits.argmax(axis=1)])

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was learned, as plain arrays (``classes`` is numeric or fixed-width text: no pickle)."""
        check_fitted(self)
        classes = self.classes_ if self.classes_.dtype != object else self.classes_.astype(str)
        numbers = {"C": np.array(self.C_), "together": np.array(self.together_)}
        return {"coef": self.coef_, "intercept": self.intercept_, "classes": classes, **numbers}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> LinearProbe:
        """The probe that :meth:`to_arrays` came from, ready to predict."""
        probe = cls(C=float(arrays["C"]))
        probe.coef_, probe.intercept_, probe.classes_ = arrays["coef"], arrays["intercept"], arrays["classes"]
        probe.C_, probe.n_features_in_ = float(arrays["C"]), arrays["coef"].shape[1]
        probe.together_ = int(arrays.get("together", len(probe.coef_)))
        return probe


def _read_folds(folds: Folds, n: int) -> Folds:
    """Pairs of row numbers below ``n``."""
    pairs: Folds = []
    with suppress(TypeError, ValueError):
        pairs = [(_read_places(train, n), _read_places(held, n)) for train, held in folds]
    if not pairs:
        got, fix = f"{folds!r}"[:60], "give a number of folds"
        raise UsageError(expected=f"(train, validation) rows in 0..{n - 1}", got=got, fix=fix, where="LinearProbe")
    return pairs


def _read_places(rows: IndexArray, n: int) -> IndexArray:
    return check_indices(as_labels(rows, "folds"), n)


@cache
def _threads() -> ThreadpoolController:
    """The BLAS libraries of this process; to look for them takes 7 ms, as long as a small search."""
    return ThreadpoolController()
