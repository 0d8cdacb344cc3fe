"""The probability of the most probable known class."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from clip_fewshot.novelty.probe_scores import ProbeDetector
from clip_fewshot.types import FloatArray


class MaxSoftmaxDetector(ProbeDetector):
    """The largest softmax probability of a linear probe, in [1 / c, 1].

    Hendrycks, Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
    2017, section 2. Arguments and attributes: :class:`clip_fewshot.novelty.probe_scores.ProbeDetector`.
    """

    @staticmethod
    def normality(logits: FloatArray) -> FloatArray:
        """(n, c) -> (n,)."""
        return np.asarray(softmax(logits, axis=1).max(axis=1))
