"""A whole classifier as one torch module, for export: bytes of pictures to all that an answer says.

Which probes and detectors can be exported stands in :mod:`clip_fewshot.probes.formulas` (all of the library's) and
:mod:`clip_fewshot.open_world.score_graphs`. What is computed in float64 in Python is so here.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.onnx import PreparedPictures
from clip_fewshot.conformal.p_values import ROUNDING
from clip_fewshot.conformal.prediction_sets import LEAST_PROBABILITY
from clip_fewshot.features.prefix import stored_cuts
from clip_fewshot.few_shot.approach import PROBE
from clip_fewshot.few_shot.model import TunedModel
from clip_fewshot.open_world.feature_spaces import BOTH, DEPTH_WEIGHT, FROZEN, parse_depth
from clip_fewshot.open_world.fitted import Fitted, KnownPictures
from clip_fewshot.open_world.p_value_graphs import CalibratedGraph, CrossGraph, find_tie_range
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.open_world.score_graphs import ArrayModule, build_score, scale_to_unit
from clip_fewshot.probes.formulas import write_formula
from clip_fewshot.types import FloatArray

NO_CLASS_NUMBER = -1  # in the place of a class's number


class FeaturesGraph(nn.Module):
    """Pixels -> frozen features and those under each (n, suffix), in one pass through the tower."""

    def __init__(self, backbone: Backbone, suffixes: list[tuple[int, nn.Module]]) -> None:
        super().__init__()
        self.visual, self.depths = backbone.visual, [n for n, _ in suffixes]
        self.suffixes = nn.ModuleDict({str(i): suffix for i, (n, suffix) in enumerate(suffixes) if n > 0})

    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(b, 3, s, s) -> (b, d), and (b, d') each; a suffix of depth 0 gives the frozen features."""
        state, done = self.visual.embed(pixels), 0
        total, own = self.visual.n_blocks, dict[int, Tensor]()
        for n in reversed(stored_cuts(self.depths)) or [total]:
            state, done = self.visual.advance(state, done, total - n), total - n
            own |= {int(i): suffix(state) for i, suffix in self.suffixes.items() if self.depths[int(i)] == n}
        frozen = self.visual.finish(state, total - done)
        return frozen, [own.get(i, frozen) for i in range(len(self.depths))]


class ProbabilitiesGraph(ArrayModule):
    """(b, d) features under the model's suffix -> (b, c) probabilities in float64."""

    def __init__(self, model: TunedModel) -> None:
        super().__init__()
        self.head, self.temperature = model.head, model.temperature
        if model.probe is not None:
            self.formula = write_formula(model.probe).ordered(np.argsort(model.probe.classes_))
            kept = {name: array for name, array in vars(self.formula).items() if isinstance(array, np.ndarray)}
            self.hold(**kept)

    def forward(self, features: Tensor) -> Tensor:
        """Those of :meth:`TunedModel.probabilities`."""
        if self.head is not None:
            logits: Tensor = self.head(features).float() / self.temperature
            return logits.softmax(1).double()
        unit = scale_to_unit(features)
        rows, logits = scale_to_unit(unit - self.centre), unit @ self.weights.T + self.intercept
        if self.formula.moved is not None:
            logits = logits + rows @ self.moved.T
        if self.formula.keys is not None:
            logits = logits + (self.formula.beta * (rows @ self.keys.T - 1)).exp() @ self.duals
        return logits.softmax(1)


class RejectorGraph(nn.Module):
    """Frozen and own features -> scores and p-values."""

    def __init__(self, rejector: Rejector) -> None:
        super().__init__()
        (detectors, calibration, calibrated), self.space = rejector.learned(), rejector.chosen.space
        self.scores = nn.ModuleList(map(build_score, detectors))
        self.calibrated = None if calibrated is None else CalibratedGraph(calibrated)
        self.cross = CrossGraph(detectors, calibration) if calibrated is None else None

    def forward(self, frozen: Tensor, own: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(b, d) and (b, d') each -> (b,) and (b,), as :meth:`Rejector.verdict`."""
        rows = [self._build_rows(frozen, one) for one in own or [frozen] * len(self.scores)]
        scores = torch.stack([score(unit) for score, unit in zip(self.scores, rows, strict=True)]).mean(0)
        if self.calibrated is not None:
            return scores, self.calibrated(rows[0])
        return scores, self.cross(rows)  # type: ignore[misc]

    def _build_rows(self, frozen: Tensor, own: Tensor) -> Tensor:
        if self.space == FROZEN:
            return scale_to_unit(frozen)
        rows = scale_to_unit(own)
        if self.space == BOTH:
            rows = torch.cat([scale_to_unit(frozen), rows], dim=1)
        elif parse_depth(self.space) is not None and self.space.startswith(FROZEN):
            rows = torch.cat([scale_to_unit(frozen), DEPTH_WEIGHT * rows], dim=1)
        return scale_to_unit(rows)


class SetsGraph(ArrayModule):
    """(b, c) probabilities -> which classes cannot be ruled out: those whose loss is at most that of a known picture.

    p-values fall as losses grow, so that each class has a loss at which its p-value passes alpha.
    """

    def __init__(self, known: KnownPictures, alpha: float, n_classes: int, per_class: bool) -> None:
        super().__init__()
        losses = np.asarray(known.losses)
        once = ~np.isnan(losses)
        own, labels = losses[once], known.labels[once]
        parts = [own[labels == label] if per_class else own for label in range(n_classes)]
        self.hold(limits=np.array([_find_limit(part, alpha) for part in parts]))

    def forward(self, probabilities: Tensor) -> Tensor:
        """(b, c) bool."""
        losses = -probabilities.clamp(min=LEAST_PROBABILITY).log()
        return self.limits <= find_tie_range(-losses)[1]


class AnswerGraph(nn.Module):
    """Bytes of squares -> what the classifier says of each.

    Attributes:
        outputs: "label" (b,) the number of the class, -1 for unknown; "probabilities" (b, c); with a detector "p_value"
            and "score" (b,); where sets are calibrated "possible" (b, c), the classes that cannot be ruled out.

    Raises:
        UsageError: a probe or detector that has no module.
    """

    def __init__(self, backbone: Backbone, fitted: Fitted, alpha: float) -> None:
        super().__init__()
        model, rejector, known = fitted.model, fitted.rejector, fitted.known
        self.prepare = PreparedPictures(backbone)
        own = (0 if model.point.approach == PROBE else model.point.unfreeze, model.suffix)
        self.features = FeaturesGraph(backbone, [own, *(rejector.suffixes() if rejector is not None else [])])
        self.probabilities = ProbabilitiesGraph(model)
        self.rejector = None if rejector is None else RejectorGraph(rejector)
        self.least = alpha + ROUNDING if rejector is not None and rejector.refusal(alpha) is None else 0.0
        by_name = [name in fitted.without_pictures() for name in fitted.names.names]
        self.register_buffer("by_name", torch.tensor(by_name))
        per_class = rejector is not None and rejector.per_class
        self.sets = None if known.losses is None else SetsGraph(known, alpha, len(by_name), per_class)
        said = ["label", "probabilities"] + ["p_value", "score"] * (rejector is not None)
        self.outputs = (*said, *["possible"] * (self.sets is not None))

    def forward(self, squares: Tensor) -> tuple[Tensor, ...]:
        """(b, 3, s, s) uint8 -> a tensor for each of ``outputs``."""
        frozen, (own, *judged) = self.features(self.prepare(squares))
        probabilities = self.probabilities(own)
        label, found = probabilities.argmax(1), [probabilities.float()]
        if self.rejector is not None:
            score, p = self.rejector(frozen, judged)
            unknown = (p <= self.least) & ~self.by_name[label]  # type: ignore[index]
            label = torch.where(unknown, NO_CLASS_NUMBER, label)
            found += [p.float(), score.float()]
        if self.sets is not None:
            found.append(self.sets(probabilities))
        return (label, *found)


def build_answer_graph(backbone: Backbone, fitted: Fitted, alpha: float) -> AnswerGraph:
    """The module of a classifier, on the CPU; the classifier stays where it is."""
    return copy.deepcopy(AnswerGraph(backbone, fitted, alpha)).cpu().eval().requires_grad_(False)


def _find_limit(losses: FloatArray, alpha: float) -> float:
    """What minus the loss of a class must reach for its p-value among known ``losses`` to be above alpha."""
    needed = math.floor((alpha + ROUNDING) * (len(losses) + 1) - 1) + 1  # known pictures that fit no better
    if needed <= 0:
        return -math.inf
    return math.inf if needed > len(losses) else float(np.sort(-losses)[needed - 1])
