"""Novelty detectors: fitted on features of known images, higher score = more normal, -1 = novel (scikit-learn's sign).

A detector is a scikit-learn outlier estimator: ``fit(X, y=None)``, ``score_samples``, ``predict``; see
:class:`clip_fewshot.novelty.base.Detector`. What turns any score into p-values stands in ``conformal``, what chooses
among detectors and features in ``open_world``.

Example:
    >>> import clip_fewshot as cf
    >>> "lof" in cf.DETECTORS, cf.DETECTORS["knn"]()
    (True, KNNDetector())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clip_fewshot.novelty.base import Detector as Detector
from clip_fewshot.novelty.class_mean import ClassMeanDetector as ClassMeanDetector
from clip_fewshot.novelty.energy import EnergyDetector as EnergyDetector
from clip_fewshot.novelty.knn import KNNDetector as KNNDetector
from clip_fewshot.novelty.lof import LOFDetector as LOFDetector
from clip_fewshot.novelty.mahalanobis import MahalanobisDetector as MahalanobisDetector
from clip_fewshot.novelty.mahalanobis_margin import MahalanobisMarginDetector as MahalanobisMarginDetector
from clip_fewshot.novelty.max_logit import MaxLogitDetector as MaxLogitDetector
from clip_fewshot.novelty.max_softmax import MaxSoftmaxDetector as MaxSoftmaxDetector
from clip_fewshot.novelty.mcm import MCMDetector as MCMDetector
from clip_fewshot.novelty.negative_labels import NegativeLabelsDetector as NegativeLabelsDetector
from clip_fewshot.novelty.negative_labels import mine_negatives as mine_negatives
from clip_fewshot.novelty.nnguide import NNGuideDetector as NNGuideDetector
from clip_fewshot.novelty.rank_average import RankAverageDetector as RankAverageDetector
from clip_fewshot.novelty.relative_mahalanobis import RelativeMahalanobisDetector as RelativeMahalanobisDetector
from clip_fewshot.novelty.text_margin import TextMarginDetector as TextMarginDetector
from clip_fewshot.novelty.vim import ViMDetector as ViMDetector
from clip_fewshot.runtime.parts import check_contract, choose_part

DetectorPart = Callable[..., Detector]  # a class, or a function that returns unfitted detectors

# In order of preference: "auto" takes the first that it can unless another leads it by more than noise. On average over
# five sets of digits and photos they stand in this order: docs/figures/detectors.md. LOF stands last: with few shots
# the density around neighbours is mostly noise.
DETECTORS: dict[str, type[Detector]] = {
    "text-margin": TextMarginDetector,
    "mahalanobis-margin": MahalanobisMarginDetector,
    "mahalanobis": MahalanobisDetector,
    "class-mean": ClassMeanDetector,
    "knn": KNNDetector,
    "relative-mahalanobis": RelativeMahalanobisDetector,
    "vim": ViMDetector,
    "nnguide": NNGuideDetector,
    "max-softmax": MaxSoftmaxDetector,
    "max-logit": MaxLogitDetector,
    "energy": EnergyDetector,
    "mcm": MCMDetector,
    "negative-labels": NegativeLabelsDetector,
    "rank-average": RankAverageDetector,
    "lof": LOFDetector,
}
RankAverageDetector.parts = DETECTORS


def find_detector(detector: str | DetectorPart) -> tuple[str, DetectorPart]:
    """(name, class or factory) of a detector.

    Args:
        detector: a key of ``DETECTORS``, the name of an entry point, "python:MODULE:NAME", a class of your own, or a
            function that returns unfitted detectors.

    Raises:
        UsageError: no such detector, or one that lacks something of :class:`Detector`.
    """
    members: Mapping[str, DetectorPart] = DETECTORS
    name, part = choose_part("detectors", detector, members)
    check_contract("detector", name, facts_of(part), Detector)
    return name, part


def facts_of(part: DetectorPart) -> Detector | type[Detector]:
    """Where the class attributes of a detector stand: its class, or what its factory returns."""
    return part if isinstance(part, type) else part()


def build_detector(detector: str | DetectorPart, **options: Any) -> Detector:
    """The detector that :func:`find_detector` finds, with ``options``."""
    return find_detector(detector)[1](**options)
