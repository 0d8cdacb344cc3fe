"""Probabilities as log-odds: a probability next to 1 has no room in float64 for what tells it from another.

At CLIP's own temperature of 0.01 a known picture and an unknown one both have probability 1.0 to the last bit, while
their log-odds are 60 and 45. The order is that of the probabilities, so that ranks and p-values stay what they were
wherever those differed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit, logsumexp

from clip_fewshot.evaluation.ties import TIE
from clip_fewshot.types import FloatArray

LOG_ODDS_KEY = "loo_log_odds"


def measure_log_odds(logits: FloatArray) -> FloatArray:
    """(n,) ln p / (1 - p), p the largest softmax probability of (n, c) logits, c >= 2; at least -ln(c - 1)."""
    others = np.array(logits, dtype=np.float64)
    np.put_along_axis(others, others.argmax(axis=1)[:, None], -np.inf, axis=1)
    return np.asarray(logits.max(axis=1) - logsumexp(others, axis=1))


def read_log_odds(arrays: Mapping[str, NDArray[Any]]) -> FloatArray:
    """Stored leave-one-out scores; those of an earlier release are probabilities, and are turned.

    Where they are next to 1 they tied with one another and with what is nearer: they become the least of these, so that
    each picture has the p-value that it had.
    """
    if LOG_ODDS_KEY in arrays:
        return arrays[LOG_ODDS_KEY]
    return np.asarray(logit(np.minimum(arrays["loo_scores"], 1 - TIE)))
