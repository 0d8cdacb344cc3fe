"""Which trial is worth its next fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from clip_fewshot.few_shot.select import TrialRecord, select_by_approach

FACTOR = 3  # of the trials that ran as many folds, the best ``1 / FACTOR`` go on


@dataclass(frozen=True)
class Halving:
    """Successive halving over folds, by what is known before a generation of trials runs.

    Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016, in the
    asynchronous form of Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020, with two rules more.
    A trial that cannot win any more stops; that loses nothing, since of equals the earlier wins. And the trials after
    the start may run 1 + 1 / FACTOR folds each on average, so that neither ties nor a search that finds better points
    all the time can make the study a full one: with three folds, fifty trials and four approaches half of all folds.
    The start, which is each approach once, runs all its folds.

    Attributes:
        told: the finished trials of earlier generations.
        start: number of trials in the start.
        folds: of a whole trial.
    """

    told: Sequence[TrialRecord]
    start: int
    folds: int

    def can_win(self, approach: str, values: Sequence[float]) -> bool:
        """Whether a trial with these fold values beats the best of its approach if all other folds are perfect."""
        best = self._best.get(approach)
        perfect = [*values, *[1.0] * (self.folds - len(values))]
        return best is None or sum(perfect) / self.folds > best.value

    def is_promising(self, values: Sequence[float]) -> bool:
        """Whether these fold values are among the best of all trials so far; ties are not."""
        n = len(values)
        rivals = [sum(record.fold_values[:n]) / n for record in self.told if len(record.fold_values) >= n]
        ahead = sum(rival >= sum(values) / n for rival in rivals)
        return ahead < (len(rivals) + 1) // FACTOR

    def is_affordable(self, begun: int, promoted: int) -> bool:
        """Whether one more trial of this generation can run all its folds.

        Args:
            begun: trials of this generation up to it, which run a fold each.
            promoted: those before it that run all folds.
        """
        trials, spent = self._later
        after = spent + begun + (promoted + 1) * (self.folds - 1)
        return after <= (trials + begun) * (1 + Fraction(1, FACTOR))

    @cached_property
    def _best(self) -> dict[str, TrialRecord]:
        return select_by_approach(self.told)

    @cached_property
    def _later(self) -> tuple[int, int]:
        """The trials after the start, and the folds that they ran."""
        folds = [len(record.fold_values) for record in self.told if record.number >= self.start]
        return len(folds), sum(folds)


def estimate_worth(record: TrialRecord, start: Sequence[TrialRecord], folds: int) -> float | None:
    """What the sampler learns of a trial: its score, or the score expected of it had it run all its folds.

    By Optuna's rule every pruned trial is worse than every whole one. Few are whole here, five centres among them, and
    so most of what the search saw would never guide it: on simulated studies that cost 0.16 points of accuracy where
    scores are nearly free of noise, and nothing where they are noisy. The expectation is the mean of the start, plus
    the distance from the start on the folds that ran, shrunk as if a fold had as much noise as trials differ.

    Args:
        start: the trials of the start.

    Returns:
        None: the trial failed, or ran no fold.
    """
    n = len(record.fold_values)
    if record.state == "FAIL" or n == 0:
        return None
    whole = [rival for rival in start if len(rival.fold_values) == folds]
    if record.state == "COMPLETE" or not whole:
        return record.value
    usual = sum(sum(rival.fold_values[:n]) / n for rival in whole) / len(whole)
    shrunk = n * (folds + 1) / ((n + 1) * folds)
    return sum(rival.value for rival in whole) / len(whole) + shrunk * (record.value - usual)
