"""Novelty detectors: fitted on features of known images, higher score = more normal, -1 = novel (scikit-learn's sign).

A detector is a scikit-learn outlier estimator: ``fit(X, y=None)``, ``score_samples``, ``predict``; see
:class:`clip_fewshot.novelty.base.Detector`. What turns any score into p-values stands in ``conformal``, what chooses
among detectors and features in ``selection``.

Example:
    >>> import clip_fewshot as cf
    >>> "lof" in cf.DETECTORS, cf.DETECTORS["knn"]()
    (True, KNNDetector())
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty.base import Detector as Detector
from clip_fewshot.novelty.energy import EnergyDetector as EnergyDetector
from clip_fewshot.novelty.knn import KNNDetector as KNNDetector
from clip_fewshot.novelty.lof import LOFDetector as LOFDetector
from clip_fewshot.novelty.mahalanobis import MahalanobisDetector as MahalanobisDetector
from clip_fewshot.novelty.max_logit import MaxLogitDetector as MaxLogitDetector
from clip_fewshot.novelty.max_softmax import MaxSoftmaxDetector as MaxSoftmaxDetector
from clip_fewshot.novelty.mcm import MCMDetector as MCMDetector
from clip_fewshot.novelty.negative_labels import NegativeLabelsDetector as NegativeLabelsDetector
from clip_fewshot.novelty.negative_labels import mine_negatives as mine_negatives
from clip_fewshot.novelty.rank_average import RankAverageDetector as RankAverageDetector
from clip_fewshot.novelty.relative_mahalanobis import RelativeMahalanobisDetector as RelativeMahalanobisDetector

DETECTORS: dict[str, Callable[..., Detector]] = {
    "lof": LOFDetector,
    "knn": KNNDetector,
    "mahalanobis": MahalanobisDetector,
    "relative-mahalanobis": RelativeMahalanobisDetector,
    "max-softmax": MaxSoftmaxDetector,
    "max-logit": MaxLogitDetector,
    "energy": EnergyDetector,
    "mcm": MCMDetector,
    "negative-labels": NegativeLabelsDetector,
    "rank-average": RankAverageDetector,
}

CLASSFUL = ("relative-mahalanobis", "max-softmax", "max-logit", "energy")  # fit(X, y) needs the classes
TEXTUAL = ("mcm", "negative-labels")  # the constructor needs text features of class names, and of other words


def build_detector(name: str, **options: Any) -> Detector:
    """The detector called ``name`` in ``DETECTORS``."""
    if name not in DETECTORS:
        raise UsageError(
            expected=f"a detector out of {sorted(DETECTORS)}",
            got=repr(name),
            fix="check the spelling",
            where="detector",
        )
    return DETECTORS[name](**options)
