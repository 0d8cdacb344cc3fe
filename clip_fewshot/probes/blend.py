"""Weights of a sum of logits, under which labels that they have not seen are likeliest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from clip_fewshot.evaluation.calibration import log_losses
from clip_fewshot.probes.text_mean import LEAST_LENGTH, SPREAD_SD, USUAL_SPREAD
from clip_fewshot.types import FloatArray, LabelArray


def fit_weights(terms: Sequence[FloatArray], labels: LabelArray) -> tuple[FloatArray, float]:
    """(t,) positive weights of t terms, and what they cost: the least -ln of likelihood and prior.

    With one term this is :func:`clip_fewshot.probes.text_mean.fit_scale`: each weight is drawn to the one under which
    its term spreads as text logits usually do. Likelihood alone has no bound where all labels are told right.

    Args:
        terms: (n, c) each, of pictures that the term has not learned from. labels: (n,) in 0..c-1.
    """
    stack = np.stack(terms)
    centred = stack - stack.mean(axis=2, keepdims=True)
    spreads = np.sqrt((centred**2).mean(axis=(1, 2)))
    usual = np.log(USUAL_SPREAD / np.maximum(spreads, LEAST_LENGTH))
    told = stack[:, np.arange(len(labels)), labels]

    def cost(logs: FloatArray) -> tuple[float, FloatArray]:
        logits = np.einsum("t,tnc->nc", np.exp(logs), stack)
        away = (logs - usual) / SPREAD_SD
        pull = (np.einsum("nc,tnc->t", softmax(logits, axis=1), stack) - told.sum(axis=1)) * np.exp(logs)
        return float(log_losses(logits, labels).sum() + away @ away / 2), pull + away / SPREAD_SD

    # From far below too: where a term misleads, the likelihood has a second hollow there.
    starts = [usual + np.log(np.array(factors)) for factors in _STARTS[len(terms)]]
    found = min((minimize(cost, start, jac=True, method="L-BFGS-B") for start in starts), key=lambda one: one.fun)
    return np.exp(found.x), float(found.fun)


_STARTS = {1: [(1.0,)], 2: [(1.0, 1.0), (0.05, 1.0), (1.0, 0.05)]}
