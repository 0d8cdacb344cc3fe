"""The loop of generations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from clip_fewshot.few_shot.search.generation import Evaluate, Generation, RunningTrial
from clip_fewshot.few_shot.search.halving import Halving, estimate_worth
from clip_fewshot.few_shot.search.record import (
    RECORD,
    StoredTrial,
    foreign_trial_error,
    missing_trial_error,
    read_record,
    read_trials,
    write_trial,
)
from clip_fewshot.few_shot.search.space import SearchSpace, enqueue_start
from clip_fewshot.few_shot.select import TrialRecord
from clip_fewshot.runtime import rng
from clip_fewshot.runtime.workers import WorkerPool

# Trials drawn together know nothing of each other, which costs the search a little and lets as many processes work.
GENERATION = 8


@dataclass(frozen=True)
class StudyPlan:
    """How long a study runs and what makes it repeatable.

    Attributes:
        trials: finished trials to end with, those of earlier runs included.
        folds: validation folds a trial runs when nothing prunes it.
        seed: seed of the sampler.
        folder: where trial files lie.
        storage: database URL of a study shared by several workers, or None.
        deadline: says after which ``time.monotonic()`` no fold starts, asked before each; or None.
        name: name of a shared study; runs that mean different things by a trial must differ in it.
        title: what people know it by, in front of the name; the same in all its workers.
    """

    trials: int
    folds: int
    seed: int
    folder: Path
    storage: str | None = None
    deadline: Callable[[], float] | None = None
    name: str = "few-shot"
    title: str = ""

    def is_out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline()


@dataclass(frozen=True)
class StudyContext:
    """What every part of a study needs.

    Attributes:
        progress: called with the number of finished trials and the trial that just ended.
        crew: where folds are evaluated.
    """

    space: SearchSpace
    evaluate: Evaluate
    plan: StudyPlan
    progress: Callable[[int, TrialRecord], None]
    crew: WorkerPool

    def draw(self, study: optuna.Study) -> RunningTrial:
        """The next trial. Its sampler is seeded by its number, and takes those under way for bad points."""
        trial = study.ask()
        seed = rng.derive_seed(self.plan.seed, "tpe", trial.number) % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=True)
        return RunningTrial(trial, self.space.suggest(trial))

    def finish(self, drawn: Sequence[RunningTrial], told: Sequence[TrialRecord], finished: int) -> bool:
        """Run the trials that have not ended, write each one when it ends, and report the progress.

        Args:
            told: the trials that were known when these were drawn.
            finished: trials that ended so far.

        Returns:
            Whether the time sufficed.
        """
        rules = Halving(told, self.space.start, self.plan.folds)
        trials = {trial.number: trial.trial for trial in drawn}
        for record in Generation(drawn, rules, self.plan.is_out_of_time).run(self.evaluate, self.crew):
            trials[record.number].set_user_attr(RECORD, asdict(record))
            write_trial(self.plan.folder, record, trials[record.number], self.plan.name)
            finished += 1
            self.progress(finished, record)
        return all(trial.record is not None for trial in drawn)


def run_study(
    space: SearchSpace,
    evaluate: Evaluate,
    plan: StudyPlan,
    progress: Callable[[int, TrialRecord], None] = lambda done, record: None,
    crew: WorkerPool | None = None,
) -> list[TrialRecord]:
    """Run or go on with a study until ``plan.trials`` have finished or the deadline has passed.

    Trial 0 is zero-shot, trial 1 the text-informed probe, trial 2 the frozen probe; then comes the centre of each
    approach, then what TPE (Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011) draws, a generation
    of trials at a time. Where no approach has an option to draw, the study ends before that.

    Args:
        crew: evaluates folds; None: this process. The study is the same for any.

    Returns:
        All finished trials in order. A trial that diverged is among them as FAIL with its reason.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns in many lines of what is raised afterwards
    search = StudyContext(space, evaluate, plan, progress, crew or WorkerPool(1))
    if plan.storage is None:
        return _run_alone(search)
    from clip_fewshot.few_shot.search import database  # and with it SQLAlchemy, which costs a third of a second

    with database.open_shared_study(plan.storage, plan.name, plan.title, space) as study:
        return _run_shared(search, study)


def _run_alone(search: StudyContext) -> list[TrialRecord]:
    plan, study = search.plan, optuna.create_study(direction="maximize")
    files = read_trials(plan.folder, plan.name)
    records = {number: file.record for number, file in files.items()}
    whole = _generation(0, search.space)
    while set(whole) <= set(files):
        study.add_trials([files[number].to_frozen_trial(*_news(records, number, search)) for number in whole])
        whole = _generation(whole.stop, search.space)
    if max(files, default=0) >= whole.stop:
        raise _gap(plan.folder, files)
    if whole.start == 0:
        enqueue_start(study, search.space)
    trials = search.space.limit(plan.trials)
    while whole.start < trials:
        drawn = [search.draw(study) for _ in range(whole.start, min(whole.stop, trials))]
        _take_over(drawn, records, plan.folder)
        told = [records[number] for number in range(whole.start)]
        in_time = (not records or not plan.is_out_of_time()) and search.finish(drawn, told, len(records))
        records |= {trial.number: trial.record for trial in drawn if trial.record is not None}
        if not in_time or len(drawn) < len(whole):
            break
        for trial in drawn:
            state, value = _news(records, trial.number, search)
            study.tell(trial.trial, value, state=state)
        whole = _generation(whole.stop, search.space)
    return [records[number] for number in sorted(records)]


def _news(records: Mapping[int, TrialRecord], number: int, search: StudyContext) -> tuple[TrialState, float | None]:
    """What the sampler learns of a trial: one that stopped early counts as much as one that did not."""
    start = [records[n] for n in range(search.space.start)]
    value = estimate_worth(records[number], start, search.plan.folds)
    return TrialState[records[number].state] if value is None else TrialState.COMPLETE, value


def _generation(first: int, space: SearchSpace) -> range:
    """The trials that are drawn together, from ``first`` on."""
    return range(first, first + (space.start if first == 0 else GENERATION))


def _take_over(drawn: Sequence[RunningTrial], records: Mapping[int, TrialRecord], folder: Path) -> None:
    """What an interrupted run finished of a generation is not run again."""
    for trial in drawn:
        record = records.get(trial.number)
        if record is not None and record.params != trial.point.to_json():
            raise foreign_trial_error(folder, trial.number)
        trial.record = record


def _run_shared(search: StudyContext, study: optuna.Study) -> list[TrialRecord]:
    """One trial at a time: what the others of this study finish meanwhile is known to the next."""
    trials = search.space.limit(search.plan.trials)
    while len(told := _finished(study)) < trials and not (told and search.plan.is_out_of_time()):
        drawn = search.draw(study)
        search.finish([drawn], told, len(told))
        if drawn.record is None:
            study.tell(drawn.trial, state=TrialState.FAIL)
            break
        _tell(study, drawn.trial, drawn.record)
    return _finished(study)


def _tell(study: optuna.Study, trial: optuna.Trial, record: TrialRecord) -> None:
    """To a database that others read: what happened, and nothing else."""
    for n in range(1, len(record.fold_values) + 1):
        trial.report(sum(record.fold_values[:n]) / n, n)
    study.tell(trial, record.value if record.state == "COMPLETE" else None, state=TrialState[record.state])


def _finished(study: optuna.Study) -> list[TrialRecord]:
    """Trials that ran to their end; one that a kill or the deadline cut off carries no record."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=states)
    return [read_record(trial) for trial in trials if RECORD in trial.user_attrs]


def _gap(folder: Path, files: Mapping[int, StoredTrial]) -> Exception:
    missing = next(number for number in range(max(files)) if number not in files)
    return missing_trial_error(folder, missing, min(number for number in files if number > missing))
