"""What an open-world classifier is told of pictures, and what it says of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from clip_fewshot.data.dataset import ImageDataset
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


def answer(
    names: Sequence[str], probabilities: FloatArray, p_value: float, score: float, unknown: bool, top: int
) -> Answer:
    """The answer of (c,) probabilities and a decision."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    ranked = tuple((names[int(i)], float(probabilities[i])) for i in order)
    return Answer(None if unknown else ranked[0][0], p_value, score, ranked)


def without(part: Unknown, digests: Collection[str]) -> Unknown:
    """Those of other pictures."""
    rows = np.flatnonzero([digest not in digests for digest in part.pictures.digests])
    return Unknown(part.pictures.subset(rows), part.features[rows], part.p_values[rows])
