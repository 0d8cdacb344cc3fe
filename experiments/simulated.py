"""Known and new pictures as an encoder might see them, with nothing unknown about them: clusters on a common mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.preprocessing import normalize

from clip_fewshot.open_world.text_features import Texts
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray

DIMENSIONS = 16
NEGATIVES = 100  # words for everything else
NEW = -1  # the class of new pictures


@dataclass(frozen=True)
class Shape:
    """What the known pictures are like.

    Attributes:
        shots: of each class. copies: how often a third of the pictures is there once more.
        uneven: classes from dense to loose, with heavy tails.
    """

    name: str
    shots: tuple[int, ...]
    copies: int = 0
    uneven: bool = False


SHAPES = (
    Shape("5 classes x 16 shots", (16,) * 5),
    Shape("5 classes x 3 shots", (3,) * 5),
    Shape("12 classes x 1 shot", (1,) * 12),
    Shape("2 classes x 64 shots", (64,) * 2),
    Shape("40, 20, 10, 5, 3 shots, unlike spreads", (40, 20, 10, 5, 3), uneven=True),
    Shape("5 x 16 shots, a third there 6 times", (16,) * 5, copies=5),
)


class Draw(NamedTuple):
    """(n, d) known pictures and their (n,) classes; further known ones, in the same proportions; new ones.

    Attributes:
        centres: (c, d) of the known classes.
    """

    X: FloatArray
    y: Any
    known: FloatArray
    known_y: Any
    novel: FloatArray
    centres: FloatArray


def draw(shape: Shape, seed: int, n_known: int, n_novel: int) -> Draw:
    """One world, one support set, and pictures to judge."""
    random = generator(seed, "simulated", shape.name)
    classes = np.arange(len(shape.shots))
    centres = random.normal(size=(len(classes) + 1, DIMENSIONS))  # the last is that of the new category, number -1

    def pictures(y: Any) -> FloatArray:
        noise = random.normal(size=(len(y), DIMENSIONS))
        if shape.uneven:
            noise *= (0.3 + 0.4 * y / len(classes))[:, None] / np.sqrt(random.chisquare(4, len(y)) / 4)[:, None]
            return np.asarray(2 + centres[y] + noise)
        return np.asarray(2 + centres[y] + 0.5 * noise)

    y = np.repeat(classes, shape.shots)
    X = pictures(y)
    known_y = random.choice(classes, n_known, p=np.array(shape.shots) / sum(shape.shots))
    known, novel = pictures(known_y), pictures(np.full(n_novel, NEW))
    again = np.repeat(np.arange(0, len(y), 3), shape.copies)
    jitter = 1e-8 * random.normal(size=(len(again), DIMENSIONS))  # what another batch size does
    X, y = np.concatenate([X, X[again] + jitter]), np.concatenate([y, y[again]])
    return Draw(X, y, known, known_y, novel, 2 + centres[:-1])


def texts(world: Draw, seed: int) -> Texts:
    """What a text encoder might say: the way to each class, less than exactly, and ways to anywhere."""
    random = generator(seed, "simulated texts")
    concepts = world.centres + 0.5 * random.normal(size=world.centres.shape)
    return {"concepts": normalize(concepts), "negatives": normalize(random.normal(size=(NEGATIVES, DIMENSIONS)))}


def stream(world: Draw, begins: int, share: float, seed: int) -> FloatArray:
    """The known pictures in the order they have, a ``share`` of those after ``begins`` replaced by new ones."""
    change = generator(seed, "simulated stream").random(len(world.known)) < share
    change &= np.arange(len(world.known)) >= begins
    return np.where(change[:, None], world.novel[: len(world.known)], world.known)
