"""Whether a class can be told from what a picture shows besides its pixels: held-out pictures, and an exact test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

PERMUTATIONS = 2000
TOGETHER = "all together"
LEAST_LEAF = 3  # pictures: a value that one picture has tells nothing of others


class Hint(NamedTuple):
    """How well one trace alone tells the classes of held-out pictures.

    Attributes:
        accuracy: share of them told right. guessing: the share that guesses of the same make get right.
        p_value: of the trace and the class being independent, by permutations; times the number of traces (Holm).
    """

    trace: str
    accuracy: float
    guessing: float
    p_value: float


def find_hints(
    traces: Mapping[str, Sequence[Any]], labels: LabelArray, fit: IndexArray, held_out: IndexArray, seed: int = 0
) -> list[Hint]:
    """A hint for each trace that varies, and for all together; the most telling first.

    A forest learns the classes from the trace on ``fit`` and names those of ``held_out``; then the true classes change
    places. That test is exact whatever the forest does, as it has never met the held-out pictures.

    Args:
        traces: by name a value for each of n pictures: numbers, or words, or None.
        labels: (n,) classes.
        fit, held_out: row numbers.
        seed: of forests and permutations.
    """
    columns = {name: encode_trace(values, fit) for name, values in traces.items()}
    told = {name: column[:, None] for name, column in columns.items() if len(np.unique(column[fit])) > 1}
    if len(told) > 1:
        told[TOGETHER] = np.hstack(list(told.values()))
    if not told or not len(held_out) or len(np.unique(labels[fit])) < 2:
        return []
    found = [_measure(name, X, labels, fit, held_out, seed) for name, X in told.items()]
    return correct(sorted(found, key=lambda one: (one.p_value, -one.accuracy)))


def encode_trace(values: Sequence[Any], fit: IndexArray) -> FloatArray:
    """(n,) numbers as they are, words by how often they occur among ``fit``; -1 for None and for words not there."""
    numbers = [value for value in values if value is not None]
    if all(isinstance(value, int | float) for value in numbers):
        return np.array([-1.0 if value is None else float(value) for value in values])
    words, counts = np.unique([str(values[i]) for i in fit if values[i] is not None], return_counts=True)
    place = {str(word): n for n, word in enumerate(words[np.argsort(-counts, kind="stable")])}
    return np.array([-1.0 if value is None else place.get(str(value), -1) for value in values], np.float64)


def _measure(name: str, X: FloatArray, labels: LabelArray, fit: IndexArray, held_out: IndexArray, seed: int) -> Hint:
    state = seed % 2**32  # the range of scikit-learn
    forest = RandomForestClassifier(100, min_samples_leaf=LEAST_LEAF, random_state=state).fit(X[fit], labels[fit])
    said, true = forest.predict(X[held_out]), labels[held_out]
    hits = int((said == true).sum())
    rng = generator(seed, "permutations of classes", name)
    chance = np.array([(said == rng.permutation(true)).sum() for _ in range(PERMUTATIONS)])
    p_value = (1 + int((chance >= hits).sum())) / (1 + PERMUTATIONS)
    return Hint(name, hits / len(true), float(chance.mean()) / len(true), p_value)


def correct(hints: list[Hint]) -> list[Hint]:
    """Holm, "A simple sequentially rejective multiple test procedure", 1979."""
    scaled = [min(1.0, one.p_value * (len(hints) - i)) for i, one in enumerate(hints)]
    raised = np.maximum.accumulate(scaled)
    return [one._replace(p_value=float(p)) for one, p in zip(hints, raised, strict=True)]
