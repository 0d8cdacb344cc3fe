"""How an open-world classifier sees pictures, and what it answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.collect import join
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.features.encode import image_features
from clip_fewshot.open_world.add_class import Fitted
from clip_fewshot.open_world.rejector import Verdict
from clip_fewshot.tuning.last_layers import last_layers
from clip_fewshot.types import FloatArray


class Answer(NamedTuple):
    """What the model says of one picture.

    Attributes:
        label: the class, or None for unknown.
        p_value: share of known pictures at least as strange, in (0, 1]; 1 without a detector.
        score: what the detector gave it, higher = more normal; 0 without a detector.
        top: (class, probability), most probable first, whatever the decision.
    """

    label: str | None
    p_value: float
    score: float
    top: tuple[tuple[str, float], ...]


class Sight(NamedTuple):
    """Pictures as a model sees them: (n, d) frozen features, tuned ones, and those of each judge's suffix."""

    frozen: FloatArray
    tuned: FloatArray
    judged: list[FloatArray]


class Unknown(NamedTuple):
    """Pictures that were called unknown, their (n, d) frozen features and (n,) p-values."""

    pictures: ImageDataset
    features: FloatArray
    p_values: FloatArray


def look(backbone: Backbone, fitted: Fitted, images: ImageDataset) -> Sight:
    """Pictures as a model and its detector see them."""
    model, rejector = fitted.model, fitted.rejector
    judges = rejector.suffixes() if rejector is not None else []
    suffixes = [(0, last_layers(backbone.visual, 0)), (model.point.unfreeze, model.suffix), *judges]
    frozen, tuned, *judged = image_features(backbone, images, suffixes)
    return Sight(frozen, tuned, judged)


def judge(fitted: Fitted, alpha: float, sight: Sight, top: int) -> list[Answer]:
    """What a model says of what it sees."""
    n, rejector = len(sight.frozen), fitted.rejector
    probabilities = fitted.model.probabilities(sight.tuned) if n else np.empty((0, 1))
    said, unknown = Verdict(np.zeros(n), np.ones(n)), np.zeros(n, dtype=bool)
    if rejector is not None:
        said = rejector.verdict(sight.frozen, sight.judged)
        unknown = rejector.flags(said.p, alpha)
    rows = zip(probabilities, said.p, said.scores, unknown, strict=True)
    return [_answer(fitted.names.names, *row, top) for row in rows]


def _answer(
    names: Sequence[str], probabilities: FloatArray, p_value: float, score: float, unknown: bool, top: int
) -> Answer:
    order = np.argsort(-probabilities, kind="stable")[:top]
    ranked = tuple((names[int(i)], float(probabilities[i])) for i in order)
    return Answer(None if unknown else ranked[0][0], float(p_value), float(score), ranked)


def joined(parts: Sequence[Unknown]) -> Unknown:
    """All of them, at least one."""
    pictures, features, p = zip(*parts, strict=True)
    return Unknown(join(pictures), np.concatenate(features), np.concatenate(p))


def without(part: Unknown, digests: Collection[str]) -> Unknown:
    """Those of other pictures."""
    rows = np.flatnonzero([digest not in digests for digest in part.pictures.digests])
    return Unknown(part.pictures.subset(rows), part.features[rows], part.p_values[rows])
