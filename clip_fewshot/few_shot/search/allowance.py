"""How long a search may go on for the whole run to end in time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

from clip_fewshot.few_shot.select import TrialRecord

TIME_RESERVE = 0.15  # of a time budget: test and report


@dataclass
class Allowance:
    """How long the search may go on for the whole run to end in time.

    What follows it costs about as many trainings as can be counted beforehand, each about as long as those of the
    trials so far.

    Attributes:
        budget: seconds of the whole run; None: the search ends with its last trial.
        began: ``time.monotonic()`` of its beginning.
        trainings: refits, and the calibration of the winner where that needs some.
        seconds: of one training, by trial.
    """

    budget: float | None
    began: float
    trainings: int
    seconds: list[float] = field(default_factory=list)

    def observe(self, record: TrialRecord) -> None:
        """Learn how long a training takes."""
        if record.number > 0 and record.fold_values:
            self.seconds.append(record.seconds / len(record.fold_values))

    def deadline(self) -> float:
        """The ``time.monotonic()`` after which nothing more may begin."""
        if self.budget is None:
            return math.inf
        if len(self.seconds) < 3:  # the first training also pays for what is loaded when first used
            return self.began + 0.5 * self.budget
        return self.began + (1 - TIME_RESERVE) * self.budget - self.trainings * median(self.seconds)
