"""Trials that are drawn together, run side by side, and end each in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

import optuna
import torch

from clip_fewshot.errors import DivergedError
from clip_fewshot.few_shot.approach import BASELINE_NAMES, Point
from clip_fewshot.few_shot.search.halving import Halving
from clip_fewshot.few_shot.search.record import round_time
from clip_fewshot.few_shot.select import FoldScore, TrialRecord
from clip_fewshot.runtime.workers import Done, WorkerPool

Evaluate = Callable[[Point, int], FoldScore]  # (point, fold) -> what the validation fold says
ENDS_A_TRIAL = (DivergedError, MemoryError, torch.OutOfMemoryError)


@dataclass
class RunningTrial:
    """A trial from its draw to its end.

    Attributes:
        trial: Optuna's side of it.
        scores: of each fold that ran.
        under_way: its fold that runs at the moment.
        record: how it ended.
    """

    trial: optuna.Trial
    point: Point
    record: TrialRecord | None = None
    scores: list[FoldScore] = field(default_factory=list)
    seconds: float = 0.0
    under_way: Future[Done] | None = None

    @property
    def number(self) -> int:
        """Number of the trial in its study."""
        return int(self.trial.number)

    @property
    def values(self) -> list[float]:
        """The score of each fold that ran, as a number."""
        return [score.value for score in self.scores]

    @property
    def begun(self) -> list[float]:
        """Score of the first fold, if it ran to its end."""
        return list(self.values if self.record is None else self.record.fold_values)[:1]

    def end(self, state: str, reason: str = "") -> TrialRecord:
        """Close the trial in this state and keep its record."""
        took = round_time(self.seconds)
        self.record = TrialRecord.from_scores(self.number, state, self.point, self.scores, took, reason)
        return self.record


class Generation:
    """Drawn trials, none of which knew what came of the others, whose folds run in any order to the same end.

    Args:
        drawn: in order; those that ended in an earlier run have their record already.
        halving: what was known when they were drawn.
        out_of_time: asked before each fold; when true no fold starts any more, except of the baselines.
    """

    def __init__(self, drawn: Sequence[RunningTrial], halving: Halving, out_of_time: Callable[[], bool]) -> None:
        self.drawn, self.halving, self.out_of_time = drawn, halving, out_of_time

    def run(self, evaluate: Evaluate, crew: WorkerPool) -> Iterator[TrialRecord]:
        """Each trial as it ends; those that the time cut off stay without a record."""
        while True:
            yield from self._step(evaluate, crew)
            running = [trial.under_way for trial in self.drawn if trial.under_way is not None]
            if not running:
                return
            wait(running, return_when=FIRST_COMPLETED)
            yield from self._collect()

    def _step(self, evaluate: Evaluate, crew: WorkerPool) -> Iterator[TrialRecord]:
        """Start the folds that there is room for, in order of the trials, and end the trials that need no more."""
        for place, trial in enumerate(self.drawn):
            if trial.record is not None or trial.under_way is not None:
                continue
            runs_on = self._runs_on(place)
            if runs_on is False:
                yield trial.end("COMPLETE" if len(trial.values) == self.halving.folds else "PRUNED")
            elif runs_on and self._may_start(trial, crew.slots):
                trial.under_way = crew.submit(evaluate, trial.point, len(trial.values))

    def _may_start(self, trial: RunningTrial, slots: int) -> bool:
        room = sum(t.under_way is not None for t in self.drawn) < slots
        return room and (trial.point.approach in BASELINE_NAMES or not self.out_of_time())

    def _collect(self) -> Iterator[TrialRecord]:
        for trial in self.drawn:
            if trial.under_way is None or not trial.under_way.done():
                continue
            fold, trial.under_way = trial.under_way, None
            try:
                done = fold.result()
                trial.scores.append(done.value)
                trial.seconds += done.seconds
            except ENDS_A_TRIAL as error:
                yield trial.end("FAIL", f"{type(error).__name__}: {error}")

    def _runs_on(self, place: int) -> bool | None:
        """Whether a trial runs its next fold; None while that depends on a trial before it that still runs."""
        trial, rules = self.drawn[place], self.halving
        if len(trial.values) == rules.folds:
            return False
        if trial.number < rules.start:
            return True
        if not rules.can_win(trial.point.approach, trial.values):
            return False
        if len(trial.values) == 1:
            return self._promoted(place)
        return not trial.values or rules.is_promising(trial.values)

    def _promoted(self, place: int) -> bool | None:
        """Whether a trial goes on after its first fold.

        Only trials before it count, so that a study that ends within a generation begins like a longer one.
        """
        before = self.drawn[:place]
        if any(trial.record is None and not trial.values for trial in before):
            return None
        begun = promoted = 0
        for trial in [*before, self.drawn[place]]:
            begun += len(trial.begun)
            goes_on = self._deserves(trial) and self.halving.is_affordable(begun, promoted)
            promoted += goes_on
        return goes_on

    def _deserves(self, trial: RunningTrial) -> bool:
        rules = self.halving
        could_win = bool(trial.begun) and rules.can_win(trial.point.approach, trial.begun)
        return could_win and rules.is_promising(trial.begun)
