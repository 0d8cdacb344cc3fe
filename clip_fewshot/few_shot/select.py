"""Finished trials, and the rule that chooses among approaches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.approach import LINEAR_PROBE, TEXT_PRIOR, ZERO_SHOT, Approach, Point
from clip_fewshot.types import FloatArray

TRUSTED = (TEXT_PRIOR.name, LINEAR_PROBE.name, ZERO_SHOT.name)  # before all others where nothing tells them apart


class FoldScore(NamedTuple):
    """What one validation fold says of a point: the study's objective.

    Attributes:
        value: geometric mean of the probabilities of the true classes, in [0, 1]: exp(-log loss). A proper score, which
            does not reach 1 where every picture of a small fold is right. We rejected F1: on thirty pictures most
            trials tie, and the earliest is then kept.
        losses: -ln p of each picture. temperature: see :class:`TrialRecord`.
    """

    value: float
    losses: tuple[float, ...] = ()
    temperature: float = 1.0


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial, as it stands in its file.

    Attributes:
        number: the baselines have the first ones.
        state: COMPLETE, PRUNED or FAIL.
        params: what was drawn.
        fold_values: score of each fold that ran, in [0, 1], see :class:`FoldScore`.
        seconds: wall time.
        reason: why it failed, else "".
        losses: -ln p of each validation picture, by fold.
        temperatures: what was best to divide the logits of each fold by.
    """

    number: int
    state: str
    params: dict[str, Any]
    fold_values: tuple[float, ...]
    seconds: float
    reason: str = ""
    losses: tuple[tuple[float, ...], ...] = ()
    temperatures: tuple[float, ...] = ()

    @classmethod
    def from_scores(
        cls, number: int, state: str, point: Point, scores: Sequence[FoldScore], seconds: float, reason: str = ""
    ) -> TrialRecord:
        """The record of a trial whose folds had these scores."""
        return cls(
            number,
            state,
            point.to_json(),
            tuple(score.value for score in scores),
            seconds,
            reason,
            losses=tuple(score.losses for score in scores),
            temperatures=tuple(score.temperature for score in scores),
        )

    @property
    def value(self) -> float:
        """Mean score of the folds that ran; of a complete trial, its validation score."""
        return sum(self.fold_values) / len(self.fold_values) if self.fold_values else 0.0

    @property
    def temperature(self) -> float:
        """What a model of that point divides its logits by: the geometric mean over folds."""
        logs = [math.log(temperature) for temperature in self.temperatures]
        return math.exp(sum(logs) / len(logs)) if logs else 1.0

    @property
    def point(self) -> Point:
        """The point that the trial evaluated."""
        return Point.from_json(self.params)

    def to_row(self) -> dict[str, Any]:
        """One line of a table: how it ended, and each option in a column of its own."""
        ended = {"value": self.value if self.fold_values else None, "seconds": self.seconds, "reason": self.reason}
        asked = {"approach": self.point.approach, **self.point.options}
        return {"number": self.number, "state": self.state, **ended, **asked}


def select_by_approach(records: Sequence[TrialRecord]) -> dict[str, TrialRecord]:
    """The best complete trial of each approach; of equals the earlier one."""
    best: dict[str, TrialRecord] = {}
    for record in records:
        name = record.params["approach"]
        if record.state == "COMPLETE" and (name not in best or record.value > best[name].value):
            best[name] = record
    return best


def select(
    trials: Sequence[TrialRecord], approaches: Sequence[Approach], max_unfreeze: int
) -> tuple[dict[str, Point], str]:
    """(the best point of each approach, the name of the best approach) by validation alone.

    The text-informed probe is chosen, then the frozen probe, zero-shot, and the trained approaches in their order: the
    first one whose log loss is within one standard error of the lowest (the rule is Breiman, Friedman, Olshen, Stone,
    "Classification and Regression Trees", 1984, section 3.4.3). The error is that of the mean difference, picture by
    picture: all were asked about the same ones. The text-informed probe comes first as the other two are its ends. At
    one shot a class there are no folds: the baselines are compared by what they say of pictures as if these had not
    been seen, and each trained approach keeps its centre.

    Args:
        trials: finished ones of ``approaches``.
        max_unfreeze: most layers that a centre may unfreeze.
    """
    best = select_by_approach(trials)
    winners = {a.name: best[a.name].point if a.name in best else a.start(max_unfreeze) for a in approaches}
    order = [*(name for name in TRUSTED if name in best), *(name for name in winners if name in best)]
    if not order:
        return winners, next((name for name in TRUSTED if name in winners), next(iter(winners)))
    losses = {name: _losses(best[name]) for name in order}
    top = min(order, key=lambda name: (float(losses[name].mean()), best[name].number))
    return winners, next(name for name in order if _is_within_noise(losses[name], losses[top]))


def _losses(record: TrialRecord) -> FloatArray:
    """-ln p of all pictures of all folds; of a record without them, that of each fold."""
    each = [loss for fold in record.losses for loss in fold]
    return np.array(each or [-math.log(max(value, 1e-300)) for value in record.fold_values])


def _is_within_noise(losses: FloatArray, lowest: FloatArray) -> bool:
    """Whether the mean of ``losses`` is above that of ``lowest`` by at most one standard error of the difference."""
    difference = losses - lowest
    return bool(difference.mean() <= difference.std(ddof=1) / len(difference) ** 0.5)


def describe_changes(trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """Which approaches end elsewhere than they began, and how many whole trials share the best score."""
    best = select_by_approach(trials)
    began: dict[str, int] = {}
    for trial in trials:
        began.setdefault(trial.params["approach"], trial.number)
    top = max((trial.value for trial in best.values()), default=0.0)
    return {
        "moved": sorted(name for name, trial in best.items() if trial.number != began[name]),
        "tied": sum(trial.state == "COMPLETE" and trial.value == top for trial in trials),
    }


def keep_trainable(approaches: Sequence[Approach], max_unfreeze: int) -> tuple[tuple[Approach, ...], tuple[str, ...]]:
    """Those that can train on at most that many layers, and a sentence about the others where there are any.

    Raises:
        UsageError: none can.
    """
    kept = tuple(approach for approach in approaches if approach.least_unfreeze <= max_unfreeze)
    left = [approach.name for approach in approaches if approach not in kept]
    why = f"without a head, nothing trains with {max_unfreeze} unfrozen layers"
    if not kept:
        expected, fix = "an approach that can train", "raise `max_unfreeze`, or choose approaches with a head"
        raise UsageError(expected=expected, got=f"{', '.join(left)} ({why})", fix=fix, where="`approaches`")
    return kept, (f"left out: {', '.join(left)} ({why}; max_unfreeze says how many may)",) if left else ()
