"""The loop of trials."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import optuna
import torch
from optuna.trial import FrozenTrial, TrialState

from clip_fewshot import rng
from clip_fewshot.errors import DivergedError
from clip_fewshot.search.record import RECORD, TrialRecord, read_trials, write_trial
from clip_fewshot.search.space import PROBE, SearchSpace, enqueue_start
from clip_fewshot.training.approach import TuneParams

Evaluate = Callable[[TuneParams, int], float]  # (point, fold) -> validation score in [0, 1]


class HalvingPruner(optuna.pruners.BasePruner):
    """Successive halving over folds: a trial goes on while it is in the best ``1 / factor``.

    Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016, in the
    asynchronous form. Optuna's own also counts trials that a kill cut off, so a resumed study would prune otherwise.
    """

    def __init__(self, factor: float = 3.0, warmup: int = 4) -> None:
        self.factor, self.warmup = factor, warmup

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or PROBE in trial.user_attrs:
            return False
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        rivals = sorted((t.intermediate_values[step] for t in finished if step in t.intermediate_values), reverse=True)
        if len(rivals) < self.warmup:
            return False
        return trial.intermediate_values[step] < rivals[int(len(rivals) / self.factor)]


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
    """

    trials: int
    folds: int
    seed: int
    folder: Path
    storage: str | None = None
    deadline: Callable[[], float] | None = None
    name: str = "few-shot"

    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline()


def run_study(
    space: SearchSpace,
    evaluate: Evaluate,
    plan: StudyPlan,
    progress: Callable[[int, TrialRecord], None] = lambda done, record: None,
) -> list[TrialRecord]:
    """Run or go on with a study until ``plan.trials`` have finished or the deadline has passed.

    Trial 0 is the frozen probe, then comes the centre of each approach, then what TPE (Bergstra et al.,
    "Algorithms for Hyper-Parameter Optimization", 2011) draws.

    Returns:
        All finished trials in order. A trial that diverged is among them as FAIL with its reason.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns in many lines of what is raised afterwards
    if plan.storage is None:
        study = optuna.create_study(direction="maximize")
        study.add_trials(read_trials(plan.folder))
        enqueue_start(study, space)
        return _run_trials(study, space, evaluate, plan, progress)
    from clip_fewshot.search import database  # and with it SQLAlchemy, which costs a third of a second

    with database.shared_study(plan.storage, plan.name, space) as study:
        return _run_trials(study, space, evaluate, plan, progress)


def _run_trials(
    study: optuna.Study,
    space: SearchSpace,
    evaluate: Evaluate,
    plan: StudyPlan,
    progress: Callable[[int, TrialRecord], None],
) -> list[TrialRecord]:
    study.pruner = HalvingPruner()
    while (finished := len(_finished(study))) < plan.trials:
        if finished and plan.out_of_time():
            break
        record = _run_trial(study, space, evaluate, plan)
        if record is None:
            break
        progress(finished + 1, record)
    return [_record(trial) for trial in _finished(study)]


def _run_trial(study: optuna.Study, space: SearchSpace, evaluate: Evaluate, plan: StudyPlan) -> TrialRecord | None:
    """One trial from draw to file; None if the time ran out in it."""
    began = time.monotonic()
    trial = study.ask()
    seed = rng.derive_seed(plan.seed, "tpe", trial.number) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=bool(plan.storage))
    params = space.suggest(trial)
    values: list[float] = []
    state, reason = "COMPLETE", ""
    try:
        for fold in range(plan.folds):
            if plan.out_of_time() and params.approach != PROBE:
                study.tell(trial, state=TrialState.FAIL)
                return None
            values.append(evaluate(params, fold))
            trial.report(sum(values) / len(values), fold + 1)
            if fold + 1 < plan.folds and trial.should_prune():
                state = "PRUNED"
                break
    except (DivergedError, MemoryError, torch.OutOfMemoryError) as error:
        state, reason = "FAIL", f"{type(error).__name__}: {error}"
    record = TrialRecord(trial.number, state, asdict(params), tuple(values), time.monotonic() - began, reason)
    trial.set_user_attr(RECORD, asdict(record))
    write_trial(plan.folder, record, trial)
    study.tell(trial, record.value if state == "COMPLETE" else None, state=TrialState[state])
    return record


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ran to their end; one that a kill or the deadline cut off carries no record."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [t for t in study.get_trials(deepcopy=False, states=states) if RECORD in t.user_attrs]


def _record(trial: FrozenTrial) -> TrialRecord:
    fields = trial.user_attrs[RECORD]
    return TrialRecord(**{**fields, "fold_values": tuple(fields["fold_values"])})
