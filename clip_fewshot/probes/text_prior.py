"""Logistic regression whose prior is what the names of the classes say: right from the first label on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.added_row import fit_row
from clip_fewshot.probes.base import FromLogits, append_class, find_added, multiply_rows
from clip_fewshot.probes.checked import check_fitted, checked_rows
from clip_fewshot.probes.class_texts import stack_texts
from clip_fewshot.probes.logistic import LinearProbe
from clip_fewshot.probes.refine import mixture_logits, refine
from clip_fewshot.probes.support import read_support
from clip_fewshot.probes.text_mean import fit_mean
from clip_fewshot.types import FloatArray, LabelArray


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

    Pictures without labels that are at hand sharpen it (``unlabelled``, :mod:`clip_fewshot.probes.refine`): (q, d)
    features of pictures of these classes. What shows something else is to be left out before; a detector tells it.

    Attributes:
        classes_: (c,) labels. coef_: (c, d) on normalised features. intercept_: (c,). together_: rows of the fit.
        scale_: of the texts in the mean classifier; 0 without texts. C_: mean penalty, a geometric one.
        belief_: share in [0, 1] of the mean that believes the texts at all.
        directions_, centre_, log_proportions_, moved_, share_, agreement_, refused_: of
            :class:`~clip_fewshot.probes.refine.Refined`; no directions without unlabelled pictures, or where refused.

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
    takes_unlabelled: ClassVar[bool] = True

    def __init__(self, texts: Mapping[Any, FloatArray] | None = None) -> None:
        self.texts = texts

    def fit(self, X: FloatArray, y: NDArray[Any], *, unlabelled: FloatArray | None = None) -> TextPriorProbe:
        """Learn from (n, d) features and (n,) labels of at least two classes.

        Args:
            unlabelled: (q, d) features of further pictures of these classes.

        Raises:
            UsageError: one class; a class without a text where others have one, or without pictures beside
                ``unlabelled``.
        """
        unit, labels, self.classes_ = read_support(self, X, y)
        if self.texts is None:
            self._take(LinearProbe().fit(X, y))
        else:
            self._learn(unit, labels, stack_texts(self.texts, self.classes_, unit.shape[1]))
        named = [label for label in self.texts or () if label not in self.classes_.tolist()]
        self._refine(unit, labels, unlabelled, named)
        for label in named:
            self._append(label, self.scale_ * stack_texts(self.texts or {}, np.array([label]), unit.shape[1])[0], 0.0)
        return self

    def _learn(self, unit: FloatArray, labels: LabelArray, texts: FloatArray) -> None:
        mean = fit_mean(unit, labels, texts)
        self.scale_, self.C_, self.belief_ = mean.scale, mean.C, mean.belief
        self.coef_ = mean.weights + mean.scale * texts
        self.intercept_ = -mean.weights @ mean.centre
        self.together_ = len(self.coef_)
        self._left_out: FloatArray | None = mean.twins

    def left_out_logits(self) -> FloatArray | None:
        """(n, c) that another picture of the class of each one may expect; None without texts."""
        return self._left_out

    def _refine(
        self, unit: FloatArray, labels: LabelArray, unlabelled: FloatArray | None, named: Sequence[Any]
    ) -> None:
        """Let the unlabelled pictures say where the classes lie, unless they say something else of the shots."""
        width = unit.shape[1]
        self.directions_: FloatArray = np.zeros((0, width))
        self.centre_: FloatArray = np.zeros(width)
        self.log_proportions_: FloatArray = np.zeros(0)
        self.moved_, self.share_, self.agreement_, self.refused_ = 0.0, 0.0, 1.0, False
        if unlabelled is None or not len(unlabelled):
            return
        if named:
            fix = "give them pictures, or leave `unlabelled` out"
            got = f"none of {', '.join(map(str, named[:5]))}"
            raise UsageError(expected="pictures of each class", got=got, fix=fix, where="unlabelled")
        queries = unit_rows(checked_rows(self, unlabelled))
        found = refine(self._linear(queries), queries, unit, labels, self._left_out)
        self.agreement_, self.refused_ = found.agreement, found.refused
        if found.refused:
            return
        self.directions_, self.centre_, self.log_proportions_ = found.directions, found.centre, found.log_proportions
        self.moved_, self.share_, self._left_out = found.moved, found.share, found.left_out
        self.coef_, self.intercept_ = found.factor * self.coef_, found.factor * self.intercept_
        self.scale_ *= found.factor

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``."""
        unit = unit_rows(checked_rows(self, X))
        logits = self._linear(unit)
        if len(self.directions_):
            logits += mixture_logits(unit, self.directions_, self.centre_, self.together_)
        return logits

    def _linear(self, unit: FloatArray) -> FloatArray:
        return multiply_rows(unit, self.coef_, self.intercept_, self.together_)

    def extend(
        self, X: FloatArray, label: Any, known: FloatArray | None = None, *, text: FloatArray | None = None
    ) -> TextPriorProbe:
        """A probe that knows the class ``label`` too; the :meth:`logits` of the others are the same bytes.

        Args:
            X: (m, d) features of pictures of the new class; none where its text is given.
            known: (n, d) features of those of the others.
            text: (d,) of the new class.
        """
        check_fitted(self)
        extended = copy.copy(self)
        prior = np.zeros(self.coef_.shape[1])
        if text is not None:
            prior = self.scale_ * stack_texts({label: text}, np.array([label]), len(prior))[0]
        if len(X) == 0 and text is not None and not len(self.directions_):
            extended._append(label, prior, 0.0)
            return extended
        if len(X) == 0:
            fix = "give pictures of it" if text is not None else "give pictures or a text of it"
            raise UsageError(expected="pictures of the new class", got="none", fix=fix, where="extend")
        if known is None or not len(known):
            fix = "pass those that the probe was fitted on"
            raise UsageError(expected="features of known pictures", got="none", fix=fix, where="known")
        rows = np.vstack([checked_rows(self, known), checked_rows(self, X)])
        unit = unit_rows(rows)
        others = logsumexp(self.logits(rows), axis=1) - unit @ prior
        if len(self.directions_):
            length = np.linalg.norm(self.directions_, axis=1).max()
            direction = length * unit_rows(unit[-len(X) :].mean(axis=0) - self.centre_)[None]
            others -= mixture_logits(unit, direction, self.centre_, 1)[:, 0]
            extended.directions_ = np.vstack([self.directions_, direction])
        weights, intercept = fit_row(unit, others, len(X), self.C_)
        extended._append(label, prior + weights, intercept)
        return extended

    def without(self, label: Any) -> TextPriorProbe:
        """See :meth:`clip_fewshot.probes.base.NameProbe.without`."""
        check_fitted(self)
        fewer, place = copy.copy(self), find_added(self.classes_, label, self.together_)
        fewer.classes_, fewer.intercept_ = np.delete(self.classes_, place), np.delete(self.intercept_, place)
        fewer.coef_ = np.delete(self.coef_, place, axis=0)
        if len(self.directions_):
            fewer.directions_ = np.delete(self.directions_, place, axis=0)
            fewer.log_proportions_ = np.delete(self.log_proportions_, place)
        return fewer

    def _append(self, label: Any, row: FloatArray, intercept: float) -> None:
        self.classes_ = append_class(self.classes_, label)
        self.coef_, self.intercept_ = np.vstack([self.coef_, row]), np.append(self.intercept_, intercept)

    def _take(self, plain: LinearProbe) -> None:
        """What a probe without texts is."""
        self.coef_, self.intercept_ = plain.coef_, plain.intercept_
        if len(plain.coef_) == 1:
            self.coef_ = np.vstack([-plain.coef_, plain.coef_]) / 2
            self.intercept_ = np.concatenate([-plain.intercept_, plain.intercept_]) / 2
        self.scale_, self.C_, self.belief_, self.together_ = 0.0, plain.C_, 0.0, len(self.coef_)
        self._left_out = None
