"""The mean of logistic regressions around class texts, over beliefs in the texts and penalties.

Members are weighted by the likelihood of twins (:mod:`clip_fewshot.probes.twins`). A mean of linear classifiers is one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from clip_fewshot.evaluation.calibration import fit_log_scale, log_losses
from clip_fewshot.probes.softmax import LEAST_LENGTH, CentredRows, SoftmaxProblem, centre_rows
from clip_fewshot.probes.solver import descend
from clip_fewshot.probes.twins import measure_likeness, twin_logits
from clip_fewshot.types import FloatArray, LabelArray

BELIEFS = (0.0, 0.25, 0.5, 1.0)  # shares of the texts' own best scale
PENALTIES = 10.0 ** np.arange(0.0, 7.0)  # C, for rows of mean squared length 1
LEAST_SHARE = 1e-9  # of a mean; a member below it is not asked about its twins again
MEMBER_GAP = 1e-5  # of the objective: what a member of a mean is solved to
# Standard deviation of text logits at their best scale (1.8 to 3.2 on four sets), and that of its logarithm.
USUAL_SPREAD, SPREAD_SD = 2.0, 0.7
LEAST_SPREAD = 1e-6  # of unscaled ones, below which they differ by rounding alone: all names are one text to the model
# Pictures. The fewer there are, the more texts are doubted beforehand: two cannot tell them from chance.
DISTRUST = 4.0


class Member(NamedTuple):
    """One classifier of the grid, with the ln of the likelihood of its twins, and of what is thought of it before."""

    belief: float
    C: float
    weights: FloatArray  # (c, r)
    likelihood: float


class MeanClassifier(NamedTuple):
    """The mean over the grid: weights on rows less ``centre``, beside ``scale`` times the texts."""

    weights: FloatArray  # (c, d)
    twins: FloatArray  # (n, c) logits
    centre: FloatArray  # (d,)
    scale: float
    C: float
    belief: float


def fit_scale(text_logits: FloatArray, labels: LabelArray) -> float:
    """The scale under which the labels are likeliest, drawn to the usual one where there are few pictures.

    0 where all texts are one: the usual scale of what does not spread is beyond all bounds.

    Args:
        text_logits: (n, c) inner products of unit rows with unit texts. labels: (n,).
    """
    centred = text_logits - text_logits.mean(axis=1, keepdims=True)
    spread = float(np.sqrt((centred**2).mean()))
    if spread < LEAST_SPREAD:
        return 0.0
    return float(np.exp(fit_log_scale(text_logits, labels, float(np.log(USUAL_SPREAD / spread)), SPREAD_SD)))


def fit_mean(unit: FloatArray, labels: LabelArray, texts: FloatArray) -> MeanClassifier:
    """Fit each belief at each penalty, and average by the likelihood of twins.

    Args:
        unit: (n, d) unit rows. labels: (n,) in 0..c-1. texts: (c, d) unit rows.
    """
    basis = centre_rows(unit)
    text_logits = unit @ texts.T
    scale = fit_scale(text_logits, labels)
    length = max(float((basis.rows**2).sum(axis=1).mean()), LEAST_LENGTH)  # 0 where all rows are the same
    likeness = measure_likeness(unit, labels)
    members = []
    for belief in BELIEFS:
        offset = belief * scale * text_logits
        for C, weights in _follow(basis, labels, offset, length):
            twins = twin_logits(offset + basis.rows @ weights.T, weights, basis.rows, labels, C, likeness)
            doubt = 0.0 if belief else np.log1p(DISTRUST / len(labels))
            members.append(Member(belief, C, weights, float(doubt - log_losses(twins, labels).sum())))
    shares = softmax(np.array([member.likelihood for member in members]))
    twins = np.zeros_like(text_logits)
    for share, (belief, C, weights, _) in zip(shares.tolist(), members, strict=True):
        if share > LEAST_SHARE:
            logits = belief * scale * text_logits + basis.rows @ weights.T
            twins += share * twin_logits(logits, weights, basis.rows, labels, C, likeness)
    return _average(members, shares, twins, basis, scale)


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
    members: list[Member], shares: FloatArray, twins: FloatArray, basis: CentredRows, scale: float
) -> MeanClassifier:
    beliefs, penalties = np.array([one.belief for one in members]), np.array([one.C for one in members])
    weights = np.einsum("m,mcr->cr", shares, np.stack([one.weights for one in members]))
    return MeanClassifier(
        weights=weights if basis.axes is None else weights @ basis.axes.T,
        twins=twins,
        centre=basis.mean,
        scale=scale * float(shares @ beliefs),
        C=float(np.exp(shares @ np.log(penalties))),
        belief=float(shares[beliefs > 0].sum()),
    )
