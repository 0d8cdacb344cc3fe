"""What detectors that read a probe's logits and the features behind them have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import normalize

from clip_fewshot.novelty.probe_scores import PROBE_REFITS, ProbeDetector
from clip_fewshot.novelty.rows import split_left_out
from clip_fewshot.probes.checked import checked_rows
from clip_fewshot.probes.left_out import refit_logits
from clip_fewshot.types import FloatArray, LabelArray

Guided = TypeVar("Guided", bound="GuidedDetector")


class GuidedDetector(ProbeDetector):
    """A linear probe, what subclasses learn of its rows, and a score of both.

    Attributes:
        guide_: what :meth:`learn_rows` found. The others, and the arguments: as of :class:`ProbeDetector`;
            ``loo_scores_`` learn from the other rows alone what the rows say too.
    """

    guide_: dict[str, FloatArray]

    @staticmethod
    def learn_rows(unit: FloatArray, logits: FloatArray) -> dict[str, FloatArray]:
        """Arrays from (n, d) known rows of length 1 and their (n, c) logits; -inf is a class that there is not."""
        raise NotImplementedError

    @staticmethod
    def judge_rows(guide: Mapping[str, FloatArray], unit: FloatArray, logits: FloatArray) -> FloatArray:
        """(m,) scores of (m, d) rows of length 1 with (m, c) logits, higher = more normal."""
        raise NotImplementedError

    def _calibrate(self, unit: FloatArray, labels: LabelArray) -> None:
        self.guide_ = self.learn_rows(unit, self.logits(unit))
        # Turned into the space that the rows span, where angles are the same and a refit is small.
        turned = unit @ np.linalg.svd(unit, full_matrices=False)[2].T
        self.loo_scores_ = np.empty(len(unit))
        for part, logits in refit_logits(unit, labels, self.C, split_left_out(labels, PROBE_REFITS)):
            guide = self.learn_rows(np.delete(turned, part, axis=0), np.delete(logits, part, axis=0))
            self.loo_scores_[part] = self.judge_rows(guide, turned[part], logits[part])

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) normality by the probe's logits and by the rows."""
        X = checked_rows(self, X)
        return self.judge_rows(self.guide_, normalize(X), self.logits(X))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The probe, what was learned of the rows, and the leave-one-out scores."""
        arrays = super().to_arrays()
        return arrays | {f"guide.{name}": value for name, value in self.guide_.items()}

    @classmethod
    def from_arrays(cls: type[Guided], arrays: Mapping[str, NDArray[Any]]) -> Guided:
        """The detector that :meth:`to_arrays` came from."""
        detector = super().from_arrays(arrays)
        guide = {name.partition(".")[2]: value for name, value in arrays.items() if name.startswith("guide.")}
        detector.guide_ = guide
        return detector
