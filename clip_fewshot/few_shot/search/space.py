"""What a trial may draw, and where the study starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from clip_fewshot.few_shot.approach import BASELINES, Approach, Point, Range, Value

FIXED = "fixed"  # user attribute of a trial in which nothing is drawn: the approach's name


@dataclass(frozen=True)
class SearchSpace:
    """What the study may choose from.

    Attributes:
        approaches: each under a name of its own.
        max_unfreeze: largest N of "the last N layers".
        baselines: what every study begins with.
    """

    approaches: tuple[Approach, ...]
    max_unfreeze: int
    baselines: tuple[Approach, ...] = BASELINES

    @property
    def all(self) -> tuple[Approach, ...]:
        """The baselines, then the others: the order of the first trials."""
        return (*self.baselines, *(a for a in self.approaches if a not in self.baselines))

    @property
    def searched(self) -> tuple[Approach, ...]:
        """Those with something to draw. A trial of any other would repeat its first one."""
        return tuple(a for a in self.all if a.space)

    @property
    def start(self) -> int:
        """Number of trials that every study begins with: the known-good starting point of each approach."""
        return len(self.all)

    def limit(self, trials: int) -> int:
        """How many of ``trials`` there can be."""
        return trials if self.searched else min(trials, self.start)

    def centre(self, approach: Approach) -> dict[str, Any]:
        """The starting point of an approach that is searched, as Optuna parameters."""
        start = approach.start(self.max_unfreeze).options
        return {"approach": approach.name} | {self.parameter(approach, name): start[name] for name in approach.space}

    def suggest(self, trial: optuna.Trial) -> Point:
        """Draw a point; an option without effect on the drawn approach is not drawn."""
        if (fixed := trial.user_attrs.get(FIXED)) is not None:
            return self._find(fixed).start(self.max_unfreeze)
        name = trial.suggest_categorical("approach", [a.name for a in self.searched])
        chosen = self._find(name)
        drawn: Mapping[str, Value] = {
            option: self._draw(trial, self.parameter(chosen, option), limits) for option, limits in chosen.space.items()
        }
        return Point(name, {**chosen.centre, **drawn})

    def parameter(self, approach: Approach, option: str) -> str:
        """Optuna's name for an option.

        Its own, or with the approach before it where another approach means another kind of number by it, which
        Optuna refuses under one name.
        """
        first = next(a.space[option] for a in self.searched if option in a.space)
        return option if _kind(first) == _kind(approach.space[option]) else f"{approach.name}.{option}"

    def _find(self, name: str) -> Approach:
        return next(a for a in self.all if a.name == name)

    def _draw(self, trial: optuna.Trial, parameter: str, limits: Range) -> Value:
        high = self.max_unfreeze if limits.high is None else limits.high
        if isinstance(limits.low, int):
            return trial.suggest_int(parameter, limits.low, int(high), log=limits.log)
        return trial.suggest_float(parameter, limits.low, high, log=limits.log)


def _kind(limits: Range) -> tuple[bool, bool]:
    return isinstance(limits.low, int), limits.log


def enqueue_start(study: optuna.Study, space: SearchSpace) -> None:
    """Every approach once: where it is known to be good."""
    for approach in space.all:
        if approach.space:
            study.enqueue_trial(space.centre(approach))
        else:
            study.enqueue_trial({}, user_attrs={FIXED: approach.name})
