"""What a figure is drawn from: plain arrays and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.metrics import det_curve
from clip_fewshot.types import FloatArray, LabelArray

TRIAL_STATES = ("finished", "pruned", "failed")


class TrialRow(TypedDict):
    """One trial of the search. ``value`` is the validation score in [0, 1], None where the trial has none."""

    number: int
    approach: str
    state: str  # one of TRIAL_STATES
    value: float | None
    params: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True)
class EmbeddingView:
    """Image and text embeddings in the common space, for one 2-D picture.

    Attributes:
        title: what the model was, for example "frozen" or "after tuning".
        images: (n, d) features, any scale.
        labels: (n,) indices into ``names``; -1 for images of no named class.
        texts: (c, d) one row per name, or (0, d) where there is no text tower.
        names: the c class names.
    """

    title: str
    images: FloatArray
    labels: LabelArray
    texts: FloatArray
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        where = f"EmbeddingView {self.title!r}"
        if self.images.ndim != 2 or self.texts.ndim != 2 or self.images.shape[1] != self.texts.shape[1]:
            shapes = f"{self.images.shape} and {self.texts.shape}"
            fix = "pass one common space"
            raise UsageError(expected="images (n, d) and texts (c, d)", got=shapes, fix=fix, where=where)
        if len(self.labels) != len(self.images) or len(self.texts) not in (0, len(self.names)):
            rows = f"{number(len(self.images), 'image')}, {len(self.labels)} labels, {len(self.texts)} texts"
            fix = "align the rows"
            raise UsageError(expected="a label per image and a text per name", got=rows, fix=fix, where=where)


@dataclass(frozen=True)
class NoveltyView:
    """Novelty scores of the blindly merged test images under one fitted model, and the curve they give.

    Attributes:
        known_scores: (n,) of test images of known classes; higher = more normal, scikit-learn's sign.
        novel_scores: (m,) of test images of unseen classes.
        threshold: images that score below it are flagged; None where the false-alarm rate was refused.
        false_alarm: (k,) share of known images flagged, in [0, 1], at k thresholds.
        miss: (k,) share of novel images not flagged, at the same thresholds.
    """

    known_scores: FloatArray
    novel_scores: FloatArray
    threshold: float | None
    false_alarm: FloatArray
    miss: FloatArray

    @classmethod
    def of_scores(cls, known: FloatArray, novel: FloatArray, flagged: int | None) -> NoveltyView:
        """Scores with their curve.

        Args:
            flagged: how many of all were called unknown, by their p-values: the threshold is drawn at the first score
                that was not. None: the false-alarm rate was refused.
        """
        if not len(known) or not len(novel):
            return cls(known, novel, None, known, novel)
        scores = np.concatenate([known, novel])
        curve = det_curve(np.arange(len(scores)) >= len(known), scores)
        ordered = np.append(np.sort(scores), np.nextafter(scores.max(), np.inf))
        threshold = None if flagged is None else float(ordered[flagged])
        return cls(known, novel, threshold, curve.false_alarm_rate, curve.miss_rate)

    def __post_init__(self) -> None:
        if not len(self.known_scores) or not len(self.novel_scores):
            sizes = f"{len(self.known_scores)} known and {len(self.novel_scores)} novel"
            fix = "leave RunRecord.novelty None"
            raise UsageError(expected="scores of known and of novel images", got=sizes, fix=fix, where="NoveltyView")
        if len(self.false_alarm) != len(self.miss):
            sizes = f"{len(self.false_alarm)} and {len(self.miss)}"
            expected = "as many false-alarm as miss rates"
            raise UsageError(expected=expected, got=sizes, fix="pass one curve", where="NoveltyView")


class ShotPoint(NamedTuple):
    """Accuracy at one number of shots per class, with its 95 % interval; fractions in [0, 1]."""

    shots: int
    mean: float
    low: float
    high: float


class Mistake(NamedTuple):
    """One cell of the confusion matrix off its diagonal."""

    true: int
    answer: int
    n: int


def list_mistakes(counts: NDArray[np.int64], most: int) -> list[Mistake]:
    """The most frequent ones of a confusion matrix (c, c), rows true; at most that many."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places: Sequence[tuple[int, int]] = list(zip(*np.unravel_index(order, wrong.shape), strict=True))
    return [Mistake(int(i), int(j), int(wrong[i, j])) for i, j in places if wrong[i, j]]
