"""Finished trials, and the rule that chooses among approaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clip_fewshot.few_shot.approach import PROBE, Approach, Point


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial, as it stands in its file.

    Attributes:
        number: 0 is the frozen probe.
        state: COMPLETE, PRUNED or FAIL.
        params: what was drawn.
        fold_values: validation score of each fold that ran, in [0, 1].
        seconds: wall time.
        reason: why it failed, else "".
    """

    number: int
    state: str
    params: dict[str, Any]
    fold_values: tuple[float, ...]
    seconds: float
    reason: str = ""

    @property
    def value(self) -> float:
        """Mean score of the folds that ran; of a complete trial, its validation score."""
        return sum(self.fold_values) / len(self.fold_values) if self.fold_values else 0.0

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
    trials: Sequence[TrialRecord], approaches: Sequence[Approach], n_validated: int, max_unfreeze: int
) -> tuple[dict[str, Point], str]:
    """(the best point of each approach, the name of the best approach) by validation score alone.

    The frozen probe is chosen unless a tuned approach beats it by more than one standard error of the best score:
    the best of fifty noisy scores is too high by about that much (the rule is Breiman, Friedman, Olshen, Stone,
    "Classification and Regression Trees", 1984, section 3.4.3). Without trials, at one shot a class, nothing can be
    validated: every approach keeps its centre and the probe is chosen.

    Args:
        n_validated: pictures that a complete trial was validated on, all folds together.
        max_unfreeze: most layers that a centre may unfreeze.
    """
    best = select_by_approach(trials)
    winners = {a.name: best[a.name].point if a.name in best else a.start(max_unfreeze) for a in approaches}
    ranked = sorted(best, key=lambda name: (-best[name].value, best[name].number))
    if not ranked:
        return winners, PROBE
    top = best[ranked[0]].value
    hits = (top * n_validated + 1) / (n_validated + 2)  # a perfect score on few pictures has an error too
    standard_error = (hits * (1 - hits) / n_validated) ** 0.5
    keeps_probe = PROBE in best and best[PROBE].value >= top - standard_error
    return winners, PROBE if keeps_probe else ranked[0]


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
