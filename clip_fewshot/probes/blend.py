"""Weights of a sum of logits, under which labels that they have not seen are likeliest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from clip_fewshot.evaluation.calibration import log_losses
from clip_fewshot.probes.penalty import LEAST_LENGTH
from clip_fewshot.probes.text_mean import SPREAD_SD, USUAL_SPREAD
from clip_fewshot.types import FloatArray, LabelArray

BETA_SD = 0.7  # of the ln of the sharpness of a kernel, around its usual value


def usual_weight(logits: FloatArray) -> float:
    """The weight under which (n, c) logits of pictures that were not seen spread as text logits usually do."""
    centred = logits - logits.mean(axis=-1, keepdims=True)
    return float(USUAL_SPREAD / max(float(np.sqrt((centred**2).mean())), LEAST_LENGTH))


def fit_weights(terms: Sequence[FloatArray], labels: LabelArray, usual: Sequence[float]) -> tuple[FloatArray, float]:
    """(t,) positive weights of t terms, and what they cost: the least -ln of likelihood and prior.

    For several terms what :func:`clip_fewshot.probes.text_mean.fit_scale` is for one. Likelihood alone has no bound
    where all labels are told right; each weight is drawn to its usual one.

    Args:
        terms: (m, n, c) each, of pictures that the term has not learned from, m times over; or (1, n, c).
        labels: (n,) in 0..c-1.
        usual: t weights.
    """
    draws = max(map(len, terms))
    stack = np.stack([np.broadcast_to(term, (draws, *term.shape[1:])).reshape(-1, term.shape[2]) for term in terms])
    labels = np.tile(labels, draws)
    told, begin = stack[:, np.arange(len(labels)), labels], np.log(usual)

    def cost(logs: FloatArray) -> tuple[float, FloatArray]:
        logits = np.einsum("t,tnc->nc", np.exp(logs), stack)
        away = (logs - begin) / SPREAD_SD
        pull = (np.einsum("nc,tnc->t", softmax(logits, axis=1), stack) - told.sum(axis=1)) * np.exp(logs)
        value = log_losses(logits, labels).sum() / draws + away @ away / 2
        return float(value), pull / draws + away / SPREAD_SD

    # From far below too: where a term misleads, there is a second hollow.
    starts = [begin, *(begin - np.log(20) * (np.arange(len(terms)) == t) for t in range(len(terms)))]
    found = min((minimize(cost, start, jac=True, method="L-BFGS-B") for start in starts), key=lambda one: one.fun)
    return np.exp(found.x), float(found.fun)


def settle_scale(term: FloatArray, labels: LabelArray, usual: float, given: float | None = None) -> tuple[float, float]:
    """The weight of one (m, n, c) term, as of :func:`fit_weights` or as given, and what it costs."""
    if given is None:
        (scale,), cost = fit_weights([term], labels, [usual])
        return float(scale), cost
    return float(given), float(np.mean([log_losses(given * draw, labels).sum() for draw in term]))
