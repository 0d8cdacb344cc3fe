"""Novelty detectors: fitted on features of known images, higher score = more normal, -1 = novel (scikit-learn's sign).

A detector is a scikit-learn outlier estimator: ``fit(X, y=None)``, ``score_samples``, ``predict``; see
:class:`clip_fewshot.novelty.base.Detector`. What turns any score into p-values stands in ``conformal``, what chooses
among detectors and features in ``selection``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty.base import Detector as Detector
from clip_fewshot.novelty.lof import LOFDetector as LOFDetector

DETECTORS: dict[str, Callable[..., Detector]] = {
    "lof": LOFDetector,
}


def build_detector(name: str, **options: Any) -> Detector:
    """The detector called ``name`` in ``DETECTORS``."""
    if name not in DETECTORS:
        raise UsageError(f"a detector out of {sorted(DETECTORS)}", repr(name), "check the spelling", "detector")
    return DETECTORS[name](**options)
