"""What a trial may draw, and where the study starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import optuna

from clip_fewshot.few_shot.approach import TuneParams, approach
from clip_fewshot.few_shot.model import PROBE

BACKBONE_LR = (1e-6, 1e-3)
HEAD_LR = (1e-4, 1e-2)
MARGIN = (0.0, 0.5)
SCALE = (8.0, 64.0)


@dataclass(frozen=True)
class SearchSpace:
    """What the study may choose from.

    Attributes:
        approaches: names of APPROACHES.
        max_unfreeze: largest N.
    """

    approaches: tuple[str, ...]
    max_unfreeze: int

    def centres(self) -> list[dict[str, Any]]:
        """The known-good starting point of each approach, as Optuna parameters."""
        points = []
        for name in self.approaches:
            centre = approach(name).centre
            points.append({"approach": name} | {field: getattr(centre, field) for field in approach(name).searched})
        return points

    @property
    def start(self) -> int:
        """Number of trials that every study begins with: the frozen probe and the centres."""
        return 1 + len(self.approaches)

    def suggest(self, trial: optuna.Trial) -> TuneParams:
        """Draw a point, or none for the probe; a parameter without effect on the drawn approach is not drawn."""
        if PROBE in trial.user_attrs:
            return TuneParams(PROBE)
        name = trial.suggest_categorical("approach", list(self.approaches))
        chosen = approach(name)
        draws: dict[str, Callable[[], float]] = {
            "unfreeze": lambda: trial.suggest_int("unfreeze", chosen.min_unfreeze, self.max_unfreeze),
            "backbone_lr": lambda: trial.suggest_float("backbone_lr", *BACKBONE_LR, log=True),
            "head_lr": lambda: trial.suggest_float("head_lr", *HEAD_LR, log=True),
            "margin": lambda: trial.suggest_float("margin", *MARGIN),
            "scale": lambda: trial.suggest_float("scale", *SCALE, log=True),
        }
        return replace(chosen.centre, **{field: draws[field]() for field in chosen.searched})  # type: ignore[arg-type]


def enqueue_start(study: optuna.Study, space: SearchSpace) -> None:
    """The frozen probe first, then every centre."""
    study.enqueue_trial({}, user_attrs={PROBE: True})
    for point in space.centres():
        study.enqueue_trial(point)
