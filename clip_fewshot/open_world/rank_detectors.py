"""Rank detectors and features without any unseen class: hide known classes in turn and see what finds them.

A hidden class is near: it looks like the others. A detector that tells near classes apart may still take a picture of
nothing at all for a known one, so that far pictures have a veto.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.metrics import auroc
from clip_fewshot.novelty.base import Detector
from clip_fewshot.types import FloatArray, LabelArray

Name = TypeVar("Name", bound=Hashable)


class Round(NamedTuple):
    """One known class, or a few, played as unknown.

    The features must come from an encoder that was not tuned on the hidden classes; ``normal`` are known images that
    neither encoder nor detector has seen.
    """

    fit: FloatArray  # (n, d) known images
    normal: FloatArray  # (m, d) further known images
    novel: FloatArray  # (k, d) images of the hidden classes
    labels: LabelArray | None = None  # (n,) classes of ``fit``, for detectors that use them
    far: Sequence[FloatArray] = ()  # (f, d) pictures of nothing known, one array per kind


class DetectorScore(NamedTuple, Generic[Name]):
    """What one candidate did: AUROC (novel = positive) in each round and their mean.

    Attributes:
        far_per_round: AUROC of the kind of far pictures that it finds least; empty without far pictures.
    """

    name: Name
    auroc: float
    per_round: tuple[float, ...]
    far_per_round: tuple[float, ...] = ()

    @property
    def far(self) -> float | None:
        """Mean over the rounds; None without far pictures."""
        return float(np.mean(self.far_per_round)) if self.far_per_round else None


@dataclass(frozen=True)
class Selection(Generic[Name]):
    """The choice and all it was chosen from.

    Attributes:
        best: the first given of those that trail the highest mean AUROC by no more than a standard error.
        margin: lead of the highest over the second, 0 where there is none.
        table: every candidate, best first.
    """

    best: Name
    margin: float
    table: tuple[DetectorScore[Name], ...]


def rank_detectors(
    candidates: Mapping[Name, tuple[Sequence[Callable[[], Detector]], Sequence[Round]]],
) -> Selection[Name]:
    """Score every candidate, (a detector factory for each round, rounds in its features), by its mean AUROC.

    The highest of fifty means over four rounds is as much luck as merit: what was given earlier is preferred within a
    standard error of it (Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3).

    All candidates must have the same number of rounds, in the same order of hidden classes, or the comparison would
    be of classes and not of candidates. A candidate that refuses a round, having too few classes or images there, is
    out.

    Raises:
        UsageError: different rounds, or every candidate refused one; says why the first did.
    """
    counts = [len(rounds) for _, rounds in candidates.values()]
    if len(set(counts)) != 1 or not counts[0]:
        raise UsageError(
            expected="candidates with the same number of rounds, >= 1",
            got=f"{counts}",
            fix="hide the same classes for each",
        )
    results, refusals = [], []
    for name, (make, rounds) in candidates.items():
        try:
            scores = tuple(_score(one_make(), one) for one_make, one in zip(make, rounds, strict=True))
        except UsageError as error:
            refusals.append(error)
            continue
        results.append(DetectorScore(name, float(np.mean(scores)), scores))
    if not results:
        raise refusals[0]
    table = tuple(sorted(results, key=lambda a: -a.auroc))
    margin = table[0].auroc - table[1].auroc if len(table) > 1 else 0.0
    best = next(one for one in results if _level(one.per_round, table[0].per_round))
    return Selection(best.name, margin, table)


def _level(one: Sequence[float], highest: Sequence[float]) -> bool:
    """Whether the mean of ``one`` lies within the standard error of the highest mean.

    The error of the highest, not that of the difference: by that an erratic candidate would be level with anything.
    """
    error = np.std(highest, ddof=1) / np.sqrt(len(highest)) if len(highest) > 1 else 0.0
    return bool(np.mean(one) >= np.mean(highest) - error)


def _score(detector: Detector, one: Round) -> float:
    detector.fit(one.fit, one.labels)
    scores = detector.score_samples(np.concatenate([one.normal, one.novel]))
    return auroc(np.repeat([False, True], [len(one.normal), len(one.novel)]), scores)
