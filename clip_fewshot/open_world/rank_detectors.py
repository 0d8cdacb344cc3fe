"""Rank detectors and features without any unseen class: hide known classes in turn and see what finds them.

A hidden class is near: it looks like the others. A detector that tells near classes apart may still take a picture of
nothing at all for a known one, so that far pictures have a veto.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from scipy.special import stdtrit

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.metrics import auroc
from clip_fewshot.novelty.base import Detector
from clip_fewshot.types import FloatArray, LabelArray

Name = TypeVar("Name", bound=Hashable)

NOISE = 0.05  # chance that luck alone puts any candidate before the first
LEAST_LEAD = 0.002  # AUROC; of leads that are the same in each round
WORSE = 0.02  # AUROC on far pictures that no lead on hidden classes makes up for
# AUROC on far pictures, and standard errors of it, by which the first must trail to go. A tenth is too little: the few
# known pictures that are held out are the same in each round, and one odd one of ten takes that from a good detector.
BLIND, BLIND_ERRORS = 0.25, 2.0


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
        best: what :func:`rank_detectors` says.
        margin: lead of the highest over the second, 0 where there is none.
        table: every candidate, the highest mean AUROC on hidden classes first.
    """

    best: Name
    margin: float
    table: tuple[DetectorScore[Name], ...]


def rank_detectors(
    candidates: Mapping[Name, tuple[Sequence[Callable[[], Detector]], Sequence[Round]]],
) -> Selection[Name]:
    """Score every candidate, (a detector factory for each round, rounds in its features), near and far.

    The first given stays unless another leads it by more than the noise of the rounds, in a paired t-test with
    Bonferroni's share for each candidate: the highest of fifty means over four rounds is luck, and to take it
    cost up to .04 AUROC, and with a lead of a standard error .025 (docs/figures/choosing_detectors.md). Who is worse
    on far pictures is not taken instead, and a first that is blind to them gives way to the next.

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
            scores = [_score(one_make(), one) for one_make, one in zip(make, rounds, strict=True)]
        except UsageError as error:
            refusals.append(error)
            continue
        near, far = zip(*scores, strict=True)
        results.append(DetectorScore(name, float(np.mean(near)), near, tuple(one for one in far if one is not None)))
    if not results:
        raise refusals[0]
    table = tuple(sorted(results, key=lambda a: -a.auroc))
    margin = table[0].auroc - table[1].auroc if len(table) > 1 else 0.0
    return Selection(_choose(results).name, margin, table)


def _choose(results: Sequence[DetectorScore[Name]]) -> DetectorScore[Name]:
    """The first that far pictures do not rule out, or the one that leads it most on hidden classes."""
    first, farthest = results[0], max(results, key=_far)
    if _far(farthest) - _far(first) > BLIND and _leads(farthest.far_per_round, first.far_per_round, BLIND_ERRORS):
        first = next(one for one in results if _far(farthest) - _far(one) <= BLIND)
    errors = float(stdtrit(max(1, len(first.per_round) - 1), 1 - NOISE / len(results)))
    leaders = [
        one for one in results if _far(first) - _far(one) <= WORSE and _leads(one.per_round, first.per_round, errors)
    ]
    return max(leaders, key=lambda one: one.auroc, default=first)


def _far(one: DetectorScore[Name]) -> float:
    return one.far or 0.0


def _leads(ahead: Sequence[float], behind: Sequence[float], errors: float) -> bool:
    """Whether the mean of ``ahead`` lies that many standard errors of the paired difference above that of ``behind``.

    Never after a single round, of which no error is known.
    """
    lead = np.subtract(ahead, behind)
    return len(lead) > 1 and bool(np.mean(lead) > LEAST_LEAD + errors * np.std(lead, ddof=1) / np.sqrt(len(lead)))


def _score(detector: Detector, one: Round) -> tuple[float, float | None]:
    """AUROC of the hidden classes, and of the far pictures of the kind that is found least."""
    detector.fit(one.fit, one.labels)
    parts = (one.normal, one.novel, *one.far)
    scores = detector.score_samples(np.concatenate(parts))
    normal, *others = np.split(scores, np.cumsum([len(part) for part in parts[:-1]]))
    near, *far = (
        auroc(np.repeat([False, True], [len(normal), len(other)]), np.concatenate([normal, other])) for other in others
    )
    return near, min(far, default=None)
