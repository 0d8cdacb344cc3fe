"""The Optuna study: which approach, how many layers, which learning rates.

It sees support features and their labels and nothing else. Every finished trial is one file, written before
Optuna hears of it; the study in memory is rebuilt from those files. Optuna's own files lost that comparison: its
journal cannot be read again after a torn write, and a resumed study repeats or forgets trials. Here a kill loses
at most the trial under way, and since a trial's sampler is seeded by the number of trials before it, the resumed
run draws the very parameters that the killed one was working on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from clip_fewshot import rng, storage
from clip_fewshot.errors import ArtifactError, DivergedError, ResourceError
from clip_fewshot.training.approach import TuneParams, approach

PROBE = "linear-probe"
RECORD = "record"  # user attribute that marks a trial as finished
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

    def suggest(self, trial: optuna.Trial) -> TuneParams:
        """Draw a point; a parameter without effect on the drawn approach is not drawn."""
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
    def tuned(self) -> TuneParams:
        return TuneParams(**self.params)


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
        if step is None:
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
        deadline: ``time.monotonic()`` after which no fold starts, or None.
        name: name of a shared study; runs that mean different things by a trial must differ in it.
    """

    trials: int
    folds: int
    seed: int
    folder: Path
    storage: str | None = None
    deadline: float | None = None
    name: str = "few-shot"

    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


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
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open_study(plan)
    study.pruner = HalvingPruner()
    while (finished := len(_finished(study))) < plan.trials:
        if finished and plan.out_of_time():
            break
        record = (
            _run_probe(study, evaluate, plan) if finished == 0 else _run_trial(study, space, evaluate, plan, finished)
        )
        if record is None:
            break
        progress(finished + 1, record)
    return [_record(trial) for trial in _finished(study)]


def _run_probe(study: optuna.Study, evaluate: Evaluate, plan: StudyPlan) -> TrialRecord:
    began = time.monotonic()
    params = TuneParams(PROBE)
    values = tuple(evaluate(params, fold) for fold in range(plan.folds))
    record = TrialRecord(0, "COMPLETE", asdict(params), values, time.monotonic() - began)
    frozen = optuna.create_trial(value=record.value, user_attrs={RECORD: asdict(record)})
    _write(plan, record, frozen)
    study.add_trial(frozen)
    return record


def _run_trial(
    study: optuna.Study, space: SearchSpace, evaluate: Evaluate, plan: StudyPlan, finished: int
) -> TrialRecord | None:
    """One trial from draw to file; None if the time ran out in it."""
    worker = (os.getpid(),) if plan.storage else ()  # workers of a shared study must not draw the same points
    seed = rng.derive_seed(plan.seed, "tpe", finished, *worker) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=bool(plan.storage))
    centres = space.centres()
    if finished <= len(centres):
        study.enqueue_trial(centres[finished - 1], skip_if_exists=True)
    began = time.monotonic()
    trial = study.ask()
    params = space.suggest(trial)
    values: list[float] = []
    state, reason = "COMPLETE", ""
    try:
        for fold in range(plan.folds):
            if plan.out_of_time():
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
    _write(plan, record, trial)
    study.tell(trial, record.value if state == "COMPLETE" else None, state=TrialState[state])
    return record


def _open_study(plan: StudyPlan) -> optuna.Study:
    if plan.storage is None:
        study = optuna.create_study(direction="maximize")
        for path in sorted(plan.folder.glob("*.json")):
            study.add_trial(_read(path))
        return study
    return _shared_study(plan.storage, plan.name, attempts=5)


def _shared_study(url: str, name: str, attempts: int) -> optuna.Study:
    try:
        return optuna.create_study(storage=url, study_name=name, direction="maximize", load_if_exists=True)
    except Exception as error:  # two workers that create the tables at once: the database refuses one of them
        if attempts == 1:
            fix = "check that the server runs and the driver is installed (extra: postgres)"
            raise ResourceError("a database to share the study in", str(error), fix, "--storage") from error
        time.sleep(1)
        return _shared_study(url, name, attempts - 1)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that ran to their end; one that a kill or the deadline cut off carries no record."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [t for t in study.get_trials(deepcopy=False, states=states) if RECORD in t.user_attrs]


def _record(trial: FrozenTrial) -> TrialRecord:
    fields = trial.user_attrs[RECORD]
    return TrialRecord(**{**fields, "number": trial.number, "fold_values": tuple(fields["fold_values"])})


def _write(plan: StudyPlan, record: TrialRecord, trial: FrozenTrial | optuna.Trial) -> None:
    distributions = {name: distribution_to_json(d) for name, d in trial.distributions.items()}
    content = {"record": asdict(record), "params": trial.params, "distributions": distributions}
    storage.write_json(plan.folder / f"{record.number:05d}.json", content)


def _read(path: Path) -> FrozenTrial:
    content = storage.read_json(path)
    try:
        record = content["record"]
        means = [sum(record["fold_values"][: i + 1]) / (i + 1) for i in range(len(record["fold_values"]))]
        return optuna.create_trial(
            state=TrialState[record["state"]],
            params=content["params"],
            distributions={name: json_to_distribution(d) for name, d in content["distributions"].items()},
            value=means[-1] if record["state"] == "COMPLETE" else None,
            intermediate_values={step + 1: mean for step, mean in enumerate(means)},
            user_attrs={RECORD: record},
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        fix = "delete the file: its trial runs again"
        raise ArtifactError("a finished trial", f"{type(error).__name__}: {error}", fix, str(path)) from error


def best_by_approach(records: Sequence[TrialRecord]) -> dict[str, TrialRecord]:
    """The best complete trial of each approach; of equals the earlier one."""
    best: dict[str, TrialRecord] = {}
    for record in records:
        name = record.params["approach"]
        if record.state == "COMPLETE" and (name not in best or record.value > best[name].value):
            best[name] = record
    return best
