"""A probe's free energy, guided by the nearest known images, each as sure as the probe is of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.special import logsumexp

from clip_fewshot.novelty.probe_scores import GuidedDetector
from clip_fewshot.types import FloatArray

GUIDES = 10  # as in the code of the authors


class NNGuideDetector(GuidedDetector):
    """The free energy of a linear probe times the mean cosine to the nearest known images, each times its own energy.

    Park, Jung, Teoh, "Nearest Neighbor Guidance for Out-of-Distribution Detection", 2023, with rows of
    length 1: far from the known images, where a probe is sure of itself without reason, the guidance is small.
    Arguments and attributes: :class:`GuidedDetector`.
    """

    @staticmethod
    def learn_rows(unit: FloatArray, logits: FloatArray) -> dict[str, FloatArray]:
        """(n, d) rows, each as long as its free energy."""
        return {"bank": unit * logsumexp(logits, axis=1)[:, None]}

    @staticmethod
    def judge_rows(guide: Mapping[str, FloatArray], unit: FloatArray, logits: FloatArray) -> FloatArray:
        """(m,) free energy times guidance."""
        likeness, k = unit @ guide["bank"].T, min(GUIDES, len(guide["bank"]))
        guidance = np.partition(likeness, -k, axis=1)[:, -k:].mean(axis=1)
        return np.asarray(logsumexp(logits, axis=1) * guidance)
