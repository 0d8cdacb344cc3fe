"""The logit of the most probable known class."""

from __future__ import annotations

import numpy as np

from clip_fewshot.novelty.probe_scores import ProbeDetector
from clip_fewshot.types import FloatArray


class MaxLogitDetector(ProbeDetector):
    """The largest logit of a linear probe: evidence for a class, whatever there is for the others.

    Hendrycks, Basart, Mazeika, Zou, Kwon, Mostajabi, Steinhardt, Song, "Scaling Out-of-Distribution Detection for
    Real-World Settings", 2022, section 3. A softmax does not tell where logits have their zero; here they sum to 0
    over the classes. Arguments and attributes: :class:`clip_fewshot.novelty.probe_scores.ProbeDetector`.
    """

    @staticmethod
    def normality(logits: FloatArray) -> FloatArray:
        """(n, c) -> (n,)."""
        return np.asarray(logits.max(axis=1))
