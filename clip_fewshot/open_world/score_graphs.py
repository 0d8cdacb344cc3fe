"""Detectors as torch modules in float64, for export: (m, d) rows of length 1 to the scores that the detector gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty.base import Detector
from clip_fewshot.novelty.class_mean import ClassMeanDetector
from clip_fewshot.novelty.energy import EnergyDetector
from clip_fewshot.novelty.formulas import write_distances_without, write_means_without, write_weights_without
from clip_fewshot.novelty.knn import KNNDetector
from clip_fewshot.novelty.mahalanobis import MahalanobisDetector
from clip_fewshot.novelty.mahalanobis_margin import AVERAGE_WEIGHT, MahalanobisMarginDetector
from clip_fewshot.novelty.max_logit import MaxLogitDetector
from clip_fewshot.novelty.max_softmax import MaxSoftmaxDetector
from clip_fewshot.novelty.mcm import MCMDetector
from clip_fewshot.novelty.relative_mahalanobis import RelativeMahalanobisDetector
from clip_fewshot.novelty.text_margin import TextMarginDetector

EXPORTED = (
    "class-mean energy knn mahalanobis mahalanobis-margin max-logit max-softmax mcm relative-mahalanobis text-margin"
)


class ArrayModule(nn.Module):
    """A module whose buffers are NumPy arrays: numbers in float64, the rest as they are."""

    if TYPE_CHECKING:  # all that torch finds for itself is a buffer

        def __getattr__(self, name: str) -> Tensor: ...

    def hold(self, **arrays: Any) -> None:
        """Keep them as attributes, which are tensors."""
        for name, array in arrays.items():
            value = torch.from_numpy(np.array(array))
            self.register_buffer(name, value.double() if value.is_floating_point() else value)


class ScoreGraph(ArrayModule):
    """A detector; ``without``: also what it says without each row that it has learned."""

    def forward(self, unit: Tensor) -> Tensor:
        """(m, d) -> (m,), as ``score_samples``."""
        raise NotImplementedError

    def without(self, unit: Tensor) -> Tensor:
        """(m, d) -> (m, n), as ``score_without``."""
        raise NotImplementedError


class KNNGraph(ScoreGraph):
    """Minus the distance to the nearest rows."""

    def __init__(self, detector: KNNDetector, without: bool) -> None:
        super().__init__()
        self.k, self.mean = detector.n_neighbors_, detector.mean
        self.hold(rows=detector.rows_)

    def forward(self, unit: Tensor) -> Tensor:
        """See :class:`ScoreGraph`."""
        near = measure_distances(unit, self.rows).topk(self.k, dim=1, largest=False).values
        return -(near.mean(1) if self.mean else near[:, -1])


class ClassMeanGraph(ScoreGraph):
    """The largest cosine with a class mean."""

    def __init__(self, detector: ClassMeanDetector, without: bool) -> None:
        super().__init__()
        self.hold(means=detector.means_, **(write_means_without(detector)._asdict() if without else {}))

    def forward(self, unit: Tensor) -> Tensor:
        """See :class:`ScoreGraph`."""
        return (unit @ self.means.T).amax(1)

    def without(self, unit: Tensor) -> Tensor:
        """See :class:`ScoreGraph`."""
        cosines = (unit @ self.means.T)[:, None]  # (m, 1, c)
        others = torch.where(self.own, -torch.inf, cosines).amax(2)
        return torch.maximum(torch.where(self.alone, -torch.inf, unit @ self.rest.T), others)


class MahalanobisGraph(ScoreGraph):
    """Minus the squared distance to the nearest class mean, plus ``average`` times the mean of those to all."""

    def __init__(self, detector: MahalanobisDetector, without: bool) -> None:
        super().__init__()
        self.average = AVERAGE_WEIGHT if isinstance(detector, MahalanobisMarginDetector) else 0.0
        self.hold(means=detector.means_, stretched=detector.axes_, gains=detector.gains_)
        self.hold(**(write_distances_without(detector)._asdict() if without else {}))

    def forward(self, unit: Tensor) -> Tensor:
        """See :class:`ScoreGraph`."""
        white = unit * self.gains[-1] + (unit @ self.stretched * self.gains[:-1]) @ self.stretched.T
        squared = measure_squared(white, self.means)
        return self.average * squared.mean(1) - squared.amin(1)

    def without(self, unit: Tensor) -> Tensor:
        """See :class:`ScoreGraph`."""
        away = unit - self.centre
        inside = away @ self.axes  # (m, r)
        outside = away - inside @ self.axes.T
        weighed = inside[:, None] * self.precision  # (m, n, r)
        squared = (inside**2 @ self.precision.T)[:, :, None] + self.precision @ (self.inside**2).T
        squared = squared - 2 * weighed @ self.inside.T  # (m, n, c)
        squared = squared + measure_squared(outside, self.outside)[:, None] / self.floor[:, None]
        turned = (inside @ self.solved.T)[:, :, None] - self.crossed
        squared = squared + self.step * turned + self.added
        squared = squared + self.feedback[:, None] * (turned + self.pushed) ** 2
        there = (~self.gone).double()
        average = (squared * there).sum(2) / there.sum(1)
        return self.average * average - torch.where(self.gone, torch.inf, squared).amin(2)


class RelativeGraph(ScoreGraph):
    """The score of the classes less that of the background."""

    def __init__(self, detector: RelativeMahalanobisDetector, without: bool) -> None:
        super().__init__()
        classes, background = detector.parts_
        self.classes, self.background = MahalanobisGraph(classes, without), MahalanobisGraph(background, without)

    def forward(self, unit: Tensor) -> Tensor:
        """See :class:`ScoreGraph`."""
        scores: Tensor = self.classes(unit) - self.background(unit)
        return scores

    def without(self, unit: Tensor) -> Tensor:
        """See :class:`ScoreGraph`."""
        return self.classes.without(unit) - self.background.without(unit)


class TextMarginGraph(ScoreGraph):
    """The margin, and the cosine to the nearest class name."""

    def __init__(self, detector: TextMarginDetector, without: bool) -> None:
        super().__init__()
        self.margin = MahalanobisGraph(detector.margin_, without)
        self.hold(concepts=detector.concepts_, weights=detector.weights_)
        self.hold(
            **(dict(zip(("of_margin", "of_names"), write_weights_without(detector), strict=True)) if without else {})
        )

    def forward(self, unit: Tensor) -> Tensor:
        """See :class:`ScoreGraph`."""
        scores: Tensor = self.weights[0] * self.margin(unit) + self.weights[1] * (unit @ self.concepts.T).amax(1)
        return scores

    def without(self, unit: Tensor) -> Tensor:
        """See :class:`ScoreGraph`."""
        likeness = (unit @ self.concepts.T).amax(1)[:, None]
        return self.of_margin * self.margin.without(unit) + self.of_names * likeness


class LogitsGraph(ScoreGraph):
    """A score of the logits of a linear probe, or of the cosines to class names, which are logits as well."""

    def __init__(self, detector: MaxLogitDetector | EnergyDetector | MaxSoftmaxDetector | MCMDetector, _: bool) -> None:
        super().__init__()
        self.normality = NORMALITY[type(detector)]
        if isinstance(detector, MCMDetector):
            coef = detector.concepts_ / detector.temperature
            self.hold(coef=coef, intercept=np.zeros(len(coef)))
            return
        coef, intercept = detector.probe_.coef_, detector.probe_.intercept_
        if len(coef) == 1:
            coef, intercept = np.vstack([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
        self.hold(coef=coef, intercept=intercept)

    def forward(self, unit: Tensor) -> Tensor:
        """See :class:`ScoreGraph`."""
        return self.normality(unit @ self.coef.T + self.intercept)


def _log_odds(logits: Tensor) -> Tensor:
    """As :func:`clip_fewshot.novelty.log_odds.measure_log_odds`."""
    first = logits.argmax(1, keepdim=True) == torch.arange(logits.shape[1])
    return logits.amax(1) - torch.where(first, -torch.inf, logits).logsumexp(1)


NORMALITY: Mapping[type[Any], Callable[[Tensor], Tensor]] = {
    EnergyDetector: lambda logits: logits.logsumexp(1),
    MaxLogitDetector: lambda logits: logits.amax(1),
    MaxSoftmaxDetector: _log_odds,
    MCMDetector: _log_odds,
}
GRAPHS: Mapping[type[Any], Callable[..., ScoreGraph]] = {
    ClassMeanDetector: ClassMeanGraph,
    EnergyDetector: LogitsGraph,
    KNNDetector: KNNGraph,
    MahalanobisDetector: MahalanobisGraph,
    MahalanobisMarginDetector: MahalanobisGraph,
    MaxLogitDetector: LogitsGraph,
    MaxSoftmaxDetector: LogitsGraph,
    MCMDetector: LogitsGraph,
    RelativeMahalanobisDetector: RelativeGraph,
    TextMarginDetector: TextMarginGraph,
}


def build_score(detector: Detector, without: bool = False) -> ScoreGraph:
    """The module of a fitted detector.

    Raises:
        UsageError: one that has none.
    """
    if type(detector) not in GRAPHS:
        fix, got = "fit again with one of these as `detector`", type(detector).__name__
        raise UsageError(expected=f"a detector out of {EXPORTED}", got=got, fix=fix, where="export of the detector")
    return GRAPHS[type(detector)](detector, without)


def measure_squared(rows: Tensor, others: Tensor) -> Tensor:
    """(m, d) and (c, d) -> (m, c) squared distances, never below 0."""
    products = rows @ others.T
    return ((rows**2).sum(1, keepdim=True) - 2 * products + (others**2).sum(1)).clamp(min=0)


def measure_distances(unit: Tensor, rows: Tensor) -> Tensor:
    """(m, d) and (n, d) rows of length 1 -> (m, n)."""
    return (2 - 2 * unit @ rows.T).clamp(min=0).sqrt()


def scale_to_unit(rows: Tensor) -> Tensor:
    """(m, d) rows of length 1 in float64; zeros stay zeros."""
    rows = rows.double()
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(length > 0, length, 1.0)
