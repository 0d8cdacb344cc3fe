"""What a trial may draw, and where the study starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from clip_fewshot.few_shot.approach import LINEAR_PROBE, PROBE, Approach, Point, Range, Value


@dataclass(frozen=True)
class SearchSpace:
    """What the study may choose from.

    Attributes:
        approaches: each under a name of its own.
        max_unfreeze: largest N of "the last N layers".
    """

    approaches: tuple[Approach, ...]
    max_unfreeze: int

    def centres(self) -> list[dict[str, Any]]:
        """The known-good starting point of each approach, as Optuna parameters."""
        starts = [(a, a.start(self.max_unfreeze).options) for a in self.approaches]
        return [
            {"approach": a.name} | {self.parameter(a, name): start[name] for name in a.space} for a, start in starts
        ]

    @property
    def start(self) -> int:
        """Number of trials that every study begins with: the frozen probe and the centres."""
        return 1 + len(self.approaches)

    def suggest(self, trial: optuna.Trial) -> Point:
        """Draw a point, or none for the probe; an option without effect on the drawn approach is not drawn."""
        if PROBE in trial.user_attrs:
            return LINEAR_PROBE.point
        name = trial.suggest_categorical("approach", [a.name for a in self.approaches])
        chosen = next(a for a in self.approaches if a.name == name)
        drawn: Mapping[str, Value] = {
            option: self._draw(trial, self.parameter(chosen, option), limits) for option, limits in chosen.space.items()
        }
        return Point(name, {**chosen.centre, **drawn})

    def parameter(self, approach: Approach, option: str) -> str:
        """Optuna's name for an option.

        Its own, or with the approach before it where another approach means another kind of number by it, which
        Optuna refuses under one name.
        """
        first = next(a.space[option] for a in self.approaches if option in a.space)
        return option if _kind(first) == _kind(approach.space[option]) else f"{approach.name}.{option}"

    def _draw(self, trial: optuna.Trial, parameter: str, limits: Range) -> Value:
        high = self.max_unfreeze if limits.high is None else limits.high
        if isinstance(limits.low, int):
            return trial.suggest_int(parameter, limits.low, int(high), log=limits.log)
        return trial.suggest_float(parameter, limits.low, high, log=limits.log)


def _kind(limits: Range) -> tuple[bool, bool]:
    return isinstance(limits.low, int), limits.log


def enqueue_start(study: optuna.Study, space: SearchSpace) -> None:
    """The frozen probe first, then every centre."""
    study.enqueue_trial({}, user_attrs={PROBE: True})
    for point in space.centres():
        study.enqueue_trial(point)
