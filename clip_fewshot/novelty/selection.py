"""Choose detector and features without any unseen class: hide known classes in turn and see what finds them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from clip_fewshot.errors import UsageError
from clip_fewshot.metrics import auroc
from clip_fewshot.novelty.base import Detector
from clip_fewshot.types import FloatArray

Name = TypeVar("Name", bound=Hashable)


class Round(NamedTuple):
    """One known class, or a few, played as unknown.

    The features must come from an encoder that was not tuned on the hidden classes; ``normal`` are known images that
    neither encoder nor detector has seen.
    """

    fit: FloatArray  # (n, d) known images
    normal: FloatArray  # (m, d) further known images
    novel: FloatArray  # (k, d) images of the hidden classes


class Alternative(NamedTuple, Generic[Name]):
    """What one candidate did: AUROC (novel = positive) in each round and their mean."""

    name: Name
    auroc: float
    per_round: tuple[float, ...]


@dataclass(frozen=True)
class Selection(Generic[Name]):
    """The choice and all it was chosen from.

    Attributes:
        best: name of the highest mean AUROC; of equal ones the first given.
        margin: its lead over the second, 0 where there is none.
        table: every candidate, best first.
    """

    best: Name
    margin: float
    table: tuple[Alternative[Name], ...]


def select_detector(
    candidates: Mapping[Name, tuple[Callable[[], Detector], Sequence[Round]]],
) -> Selection[Name]:
    """Score every candidate, (detector factory, rounds in its features), on its rounds; best mean AUROC wins.

    All candidates must have the same number of rounds, in the same order of hidden classes, or the comparison would
    be of classes and not of candidates.
    """
    counts = [len(rounds) for _, rounds in candidates.values()]
    if len(set(counts)) != 1 or not counts[0]:
        raise UsageError(
            "candidates with the same number of rounds, >= 1", f"{counts}", "hide the same classes for each"
        )
    results = []
    for name, (make_detector, rounds) in candidates.items():
        scores = tuple(_score(make_detector(), one) for one in rounds)
        results.append(Alternative(name, float(np.mean(scores)), scores))
    table = tuple(sorted(results, key=lambda a: -a.auroc))
    margin = table[0].auroc - table[1].auroc if len(table) > 1 else 0.0
    return Selection(table[0].name, margin, table)


def _score(detector: Detector, one: Round) -> float:
    detector.fit(one.fit)
    scores = detector.score_samples(np.concatenate([one.normal, one.novel]))
    return auroc(np.repeat([False, True], [len(one.normal), len(one.novel)]), scores)
