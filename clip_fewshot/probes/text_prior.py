"""Logistic regression whose prior is what the names of the classes say: right from the first label on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.added_row import fit_row
from clip_fewshot.probes.base import FromLogits, append_class
from clip_fewshot.probes.logistic import LinearProbe
from clip_fewshot.probes.softmax import CentredRows, SoftmaxProblem, centre_rows
from clip_fewshot.probes.solver import descend
from clip_fewshot.probes.twins import measure_likeness, twin_losses
from clip_fewshot.types import FloatArray, LabelArray

BELIEFS = (0.0, 0.25, 0.5, 1.0)  # shares of the texts' own best scale
PENALTIES = 10.0 ** np.arange(0.0, 7.0)  # C, for rows of mean squared length 1
MEMBER_GAP = 1e-5  # of the objective: what a member of a mean is solved to
USUAL_SPREAD, SPREAD_DECADES = 2.0, 0.7  # of text logits at their best scale; 1.8 to 3.2 on four sets. In ln: 1 sd
REACH = 6.0  # ln; how far from the usual scale is looked


class TextPriorProbe(ClassifierMixin, FromLogits, BaseEstimator):  # type: ignore[misc]
    """Multinomial logistic regression around the texts of the classes, on L2-normalised, centred features.

    The logits of a unit row q are s q.t_j + (q - mean).v_j with the class texts t, a scale s and learned weights v
    under an L2 penalty. No intercept: the texts have it. The texts have never seen the pictures, so their scale is
    fitted on them. How far they are believed and how strong the penalty is are not chosen but averaged over a grid, by
    how likely the labels of further pictures are (:mod:`clip_fewshot.probes.twins`): a mean of linear classifiers is
    one. We rejected the choice of the best: it is no more accurate, and a last bit could decide it.

    Args:
        texts: unit text features by label, of each class that is learned; a class with a text and no pictures is known
            by its text alone and stands behind the others. None: a :class:`LinearProbe`.

    Attributes:
        classes_: (c,) labels. coef_: (c, d) on normalised features. intercept_: (c,). together_: rows of the fit.
        scale_: of the texts in the mean classifier; 0 without texts. C_: mean penalty, a geometric one.
        belief_: share in [0, 1] of the mean that believes the texts at all.

    Example:
        >>> import numpy as np
        >>> from clip_fewshot.probes import TextPriorProbe
        >>> X, y = np.eye(4), np.array(["ant", "bee", "ant", "bee"])
        >>> texts = {"ant": np.array([0.8, 0, 0.6, 0]), "bee": np.array([0, 0.8, 0, 0.6])}
        >>> TextPriorProbe(texts).fit(X[:2], y[:2]).predict(X[2:]).tolist()
        ['ant', 'bee']
    """

    takes_c: ClassVar[bool] = False
    reads_texts: ClassVar[bool] = True

    def __init__(self, texts: Mapping[Any, FloatArray] | None = None) -> None:
        self.texts = texts

    def fit(self, X: FloatArray, y: NDArray[Any]) -> TextPriorProbe:
        """Learn from (n, d) features and (n,) labels of at least two classes.

        Raises:
            UsageError: one class; or a class without a text where others have one.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            fix = "add images of another class"
            raise UsageError(expected="labels of at least 2 classes", got="one class", fix=fix, where="TextPriorProbe")
        if self.texts is None:
            return self._take(LinearProbe().fit(X, y))
        unit = unit_rows(X)
        texts = self._texts(self.texts, X.shape[1])
        mean = fit_mean(unit, labels, texts)
        self.scale_, self.C_, self.belief_ = mean.scale, mean.C, mean.belief
        self.coef_ = mean.weights + mean.scale * texts
        self.intercept_ = -mean.weights @ mean.centre
        self.together_ = len(self.coef_)
        for label in self.texts:
            if label not in self.classes_.tolist():
                self._append(label, self.scale_ * unit_rows(np.asarray(self.texts[label], np.float64)), 0.0)
        return self

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``."""
        check_is_fitted(self)
        unit = unit_rows(validate_data(self, X, dtype=np.float64, reset=False))
        k = self.together_
        # A row that was added is multiplied by itself: one product with the others could change how they round.
        later = [unit @ self.coef_[i : i + 1].T + self.intercept_[i] for i in range(k, len(self.coef_))]
        return np.hstack([unit @ self.coef_[:k].T + self.intercept_[:k], *later])

    def extend(
        self, X: FloatArray, label: Any, known: FloatArray | None = None, *, text: FloatArray | None = None
    ) -> TextPriorProbe:
        """A probe that knows the class ``label`` too; the :meth:`logits` of the others are the same bytes.

        Args:
            X: (m, d) features of pictures of the new class; none where its text is given.
            known: (n, d) features of those of the others.
            text: (d,) of the new class.
        """
        check_is_fitted(self)
        extended = copy.copy(self)
        prior = np.zeros(self.coef_.shape[1])
        if text is not None:
            prior = self.scale_ * unit_rows(np.asarray(text, np.float64))
        if len(X) == 0 and text is not None:
            extended._append(label, prior, 0.0)
            return extended
        if known is None or not len(known):
            fix = "pass those that the probe was fitted on"
            raise UsageError(expected="features of known pictures", got="none", fix=fix, where="known")
        rows = np.vstack([np.asarray(known, np.float64), np.asarray(X, np.float64)])
        unit = unit_rows(rows)
        others = logsumexp(self.logits(rows), axis=1) - unit @ prior
        weights, intercept = fit_row(unit, others, len(X), self.C_)
        extended._append(label, prior + weights, intercept)
        return extended

    def _append(self, label: Any, row: FloatArray, intercept: float) -> None:
        self.classes_ = append_class(self.classes_, label)
        self.coef_, self.intercept_ = np.vstack([self.coef_, row]), np.append(self.intercept_, intercept)

    def _take(self, plain: LinearProbe) -> TextPriorProbe:
        """What a probe without texts is."""
        self.coef_, self.intercept_ = plain.coef_, plain.intercept_
        if len(plain.coef_) == 1:
            self.coef_ = np.vstack([-plain.coef_, plain.coef_]) / 2
            self.intercept_ = np.concatenate([-plain.intercept_, plain.intercept_]) / 2
        self.scale_, self.C_, self.belief_, self.together_ = 0.0, plain.C_, 0.0, len(self.coef_)
        return self

    def _texts(self, texts: Mapping[Any, FloatArray], width: int) -> FloatArray:
        """(c, d) unit rows of the classes of the fit."""
        missing = [str(label) for label in self.classes_.tolist() if label not in texts]
        if missing:
            fix = "give each class a text, or none"
            got = f"none for {', '.join(missing[:5])}"
            raise UsageError(expected="a text of each class", got=got, fix=fix, where="texts")
        rows = np.stack([np.asarray(texts[label], np.float64) for label in self.classes_.tolist()])
        if rows.shape[1:] != (width,):
            fix = "encode texts and pictures with one model"
            got = f"shape {rows.shape[1:]}"
            raise UsageError(expected=f"texts of shape ({width},), as the features", got=got, fix=fix, where="texts")
        return unit_rows(rows)


class MeanClassifier(NamedTuple):
    """The mean over the grid: weights on rows less ``centre``, beside ``scale`` times the texts."""

    weights: FloatArray  # (c, d)
    centre: FloatArray  # (d,)
    scale: float
    C: float
    belief: float


def fit_scale(text_logits: FloatArray, labels: LabelArray) -> float:
    """The scale under which the texts tell the labels best, drawn to the usual one where few pictures say little.

    Args:
        text_logits: (n, c) inner products of unit rows with unit texts. labels: (n,).
    """
    centred = text_logits - text_logits.mean(axis=1, keepdims=True)
    usual = np.log(USUAL_SPREAD / max(float(np.sqrt((centred**2).mean())), 1e-12))

    def cost(log_scale: float) -> float:
        scaled = np.exp(log_scale) * text_logits
        losses = logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]
        return float(losses.sum() + (log_scale - usual) ** 2 / (2 * SPREAD_DECADES**2))

    steps = usual + np.linspace(-REACH, REACH, 61)
    best = steps[int(np.argmin([cost(step) for step in steps]))]
    width = 2 * REACH / 60
    found = minimize_scalar(cost, bounds=(best - width, best + width), method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x))


def fit_mean(unit: FloatArray, labels: LabelArray, texts: FloatArray) -> MeanClassifier:
    """Fit each belief at each penalty, and average by the likelihood of twins.

    Args:
        unit: (n, d) unit rows. labels: (n,) in 0..c-1. texts: (c, d) unit rows.
    """
    basis = centre_rows(unit)
    text_logits = unit @ texts.T
    scale = fit_scale(text_logits, labels)
    length = float((basis.rows**2).sum(axis=1).mean())
    likeness = measure_likeness(unit, labels)
    members = []
    for belief in BELIEFS:
        offset = belief * scale * text_logits
        members += [
            (belief, C, weights, twin_losses(offset + basis.rows @ weights.T, weights, basis.rows, labels, C, likeness))
            for C, weights in _follow(basis, labels, offset, length)
        ]
    return _average(members, basis, scale)


def _follow(
    basis: CentredRows, labels: LabelArray, offset: FloatArray, length: float
) -> list[tuple[float, FloatArray]]:
    """(C, (c, r) weights) along the penalties, each from the one before."""
    problem = SoftmaxProblem.from_rows(basis.rows, labels, offset.shape[1], offset).single
    weights = problem.start()
    found: list[tuple[float, FloatArray]] = []
    for penalty in PENALTIES:
        C = float(penalty) / length
        weights = descend(problem, C, weights, MEMBER_GAP).weights
        found.append((C, weights[0, :, :-1].astype(np.float64)))
    return found


def _average(
    members: list[tuple[float, float, FloatArray, FloatArray]], basis: CentredRows, scale: float
) -> MeanClassifier:
    likelihoods = np.array([-losses.sum() for *_, losses in members])
    shares = np.exp(likelihoods - likelihoods.max())
    shares /= shares.sum()
    beliefs, penalties = np.array([one[0] for one in members]), np.array([one[1] for one in members])
    weights = np.einsum("m,mcr->cr", shares, np.stack([one[2] for one in members]))
    return MeanClassifier(
        weights=weights if basis.axes is None else weights @ basis.axes.T,
        centre=basis.mean,
        scale=scale * float(shares @ beliefs),
        C=float(np.exp(shares @ np.log(penalties))),
        belief=float(shares[beliefs > 0].sum()),
    )
