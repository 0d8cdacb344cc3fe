"""The free energy of a probe's logits."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from clip_fewshot.novelty.probe_scores import ProbeDetector
from clip_fewshot.types import FloatArray


class EnergyDetector(ProbeDetector):
    """Minus the free energy, the log of the summed exponentials of a linear probe's logits (temperature 1).

    Liu, Wang, Owens, Li, "Energy-based Out-of-distribution Detection", 2020, eq. 4. Logits sum to 0 over the classes.
    Arguments and attributes: :class:`clip_fewshot.novelty.probe_scores.ProbeDetector`.
    """

    @staticmethod
    def normality(logits: FloatArray) -> FloatArray:
        """(n, c) -> (n,)."""
        return np.asarray(logsumexp(logits, axis=1))
