"""The probability of the most probable known class."""

from __future__ import annotations

from typing import ClassVar

from clip_fewshot.novelty.log_odds import measure_log_odds
from clip_fewshot.novelty.probe_scores import ProbeDetector
from clip_fewshot.types import FloatArray


class MaxSoftmaxDetector(ProbeDetector):
    """The largest softmax probability of a linear probe, as log-odds: see :mod:`clip_fewshot.novelty.log_odds`.

    Hendrycks, Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
    2017, section 2. Arguments and attributes: :class:`clip_fewshot.novelty.probe_scores.ProbeDetector`.
    """

    in_log_odds: ClassVar[bool] = True

    @staticmethod
    def normality(logits: FloatArray) -> FloatArray:
        """(n, c) -> (n,)."""
        return measure_log_odds(logits)
