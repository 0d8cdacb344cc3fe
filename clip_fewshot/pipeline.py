"""The main job, every hop on one screen: from pictures on disk to a report."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.config import HIDDEN, FewShotConfig
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.few_shot.approach import APPROACHES, Approach, Point, find_approach, trusted_approach
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.cross_validation import resources
from clip_fewshot.few_shot.search.space import SearchSpace
from clip_fewshot.few_shot.search.study import StudyPlan, run_study
from clip_fewshot.few_shot.select import TrialRecord, select
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.open_world.select_detector import CALIBRATION_FOLDS, choose_novelty
from clip_fewshot.protocol.final_test import meet, open_test
from clip_fewshot.protocol.refits import (
    Fit,
    Prepared,
    Task,
    calibrate,
    fold_scores,
    forward_seconds,
    image_steps,
    prepare,
    refit,
)
from clip_fewshot.protocol.results import Run
from clip_fewshot.report.page import write_report
from clip_fewshot.runtime.device import resolve_device
from clip_fewshot.runtime.environment import describe_environment
from clip_fewshot.runtime.files import read_json, remove_half_files, run_lock, sha256_bytes, sha256_file, write_json
from clip_fewshot.runtime.parts import PREFIX
from clip_fewshot.runtime.workers import Crew, refusal_to_travel
from clip_fewshot.types import Progress

TRIALS, MODEL, RUN = "trials", "model", "run.json"
RESERVE = 0.15  # of a time budget: test and report


def _silent(stage: str, done: int, total: int, /) -> None:
    """Progress that is not shown."""


def run_few_shot(
    config: FewShotConfig, progress: Progress = _silent, command: str = "clip_fewshot.run_few_shot(config)"
) -> dict[str, Any]:
    """Search, refit on fresh support sets, open the test set once, reject, discover, report.

    Args:
        progress: called after each unit of work; by default nothing is.
        command: how to repeat the run, for the report.

    Returns:
        The content of results.json.

    Raises:
        DataError: the pictures cannot be used.
        ResourceError: no place to write to, no weights to be had, or another run holds the folder.
        ArtifactError: the folder holds another run, or pictures or weights are not those it began with.

    Example:
        >>> import clip_fewshot as cf
        >>> config = cf.FewShotConfig(data="digits", shots=1, unseen="0", seeds=1, approaches=("mlp",), out="run/")
        >>> results = cf.run_few_shot(config)
        >>> sorted(results["approaches"])
        ['mlp']
    """
    approaches, config, clock = chosen_approaches(config), resumed(config), Stopwatch()
    config = replace(config, approaches=tuple(approach.name for approach in approaches))
    out = output_folder(config)
    with run_lock(out), deterministic(resolve_device(config.device)):
        dataset = read_dataset(config.data, decode=config.decode)
        split = split_open_world(
            dataset,
            shots=config.shots,
            unseen=config.unseen_classes,
            seed=config.seed,
            test_fraction=config.test_fraction,
        )
        backbone = load_backbone(config.model_name, pretrained=config.pretrained, device=config.device)
        claim(out, config, approaches, dataset, backbone)
        clock.lap("read")
        depth = min(config.max_unfreeze, backbone.visual.n_blocks)
        jobs, threads, memory = resources(config, backbone, depth)
        jobs = jobs_for(approaches, jobs)
        settings = TrainSettings(config.epochs)
        task = Task(backbone, split.pool, config.shots, settings, config.n_views, config.seed, memory, approaches)
        support = prepare(task, split.support, range(depth + 1))
        clock.lap("frozen layers")
        with Crew(jobs, threads) as crew:
            trials = search(config, task, support, depth, out, clock, progress, crew)
            clock.lap("search")
            winners, best = select(trials, approaches, len(support.images))
            saved = refit(task, {name: point for name, point in winners.items() if name == best}, 0, crew)
            fits = [saved, *refit_fresh(config, task, winners, progress, crew)]
        clock.lap("refit")
        recipe, known = saved.recipe(task, best), saved.support
        choice = choose_novelty(backbone, recipe, known.data, known.frozen, names=split.seen.names)
        measured = fits if split.novel.n else fits[:1]
        rejectors = [calibrate(task, fit, best, choice) for fit in measured] if choice else []
        saved_model(config, task, saved, best, rejectors).save(out / MODEL)
        clock.lap("novelty")
        outcome = open_test(task, split, fits, best, rejectors)
        # What the study would have taken with every picture sent through the whole tower in every step.
        naive = sum(t.seconds for t in trials) + forward_seconds(task) * image_steps(task, support, trials)
        run = Run(config, dataset, split, trials, outcome, meet(task, outcome, config.alpha), choice, naive)
        clock.lap("test")
        results = run.results() | {
            "environment": describe_environment(backbone.device),
            "timing": clock.laps,
            "artifacts": {f"{MODEL}/{p.name}": sha256_file(p) for p in sorted((out / MODEL).iterdir())},
        }
        write_report(out, results, run.record(command))
    return results


def resumed(config: FewShotConfig) -> FewShotConfig:
    """``config``, or under --resume the options of the interrupted run with this call's limits and device."""
    if config.resume is None:
        return config
    path = Path(config.resume) / RUN
    if not path.is_file():
        fix = "check the path; a run that was hit before it wrote that is begun again with its own --out"
        raise ArtifactError(
            expected="the folder of an interrupted run", got=f"no {RUN} in it", fix=fix, where=config.resume
        )
    began = options_of(path)
    ignored = [
        f"--{name.replace('_', '-')}"
        for name, value in config.study_key().items()
        if name != "approaches" and value not in (getattr(began, name), getattr(FewShotConfig(), name))
    ]
    if ignored:
        fix = "leave them out, or begin another run"
        raise UsageError(
            expected="a run resumed under its own options", got=", ".join(ignored), fix=fix, where="--resume"
        )
    if str(began.model).startswith(PREFIX) and config.model != began.model:
        fix = f"give --model {began.model} again: what a file names is not imported"
        raise ArtifactError(expected="a backbone of this library", got=repr(began.model), fix=fix, where=str(path))
    if began.storage and HIDDEN in began.storage and config.storage is None:
        fix = "give --storage again; its password was not written down"
        raise UsageError(expected="the address of the database", got=began.storage, fix=fix, where="--storage")
    return replace(
        began,
        trials=config.trials or began.trials,
        budget=config.budget,
        device=config.device,
        jobs=config.jobs,
        cache_memory=config.cache_memory,
        storage=config.storage or began.storage,
        out=config.resume,
    )


def chosen_approaches(config: FewShotConfig) -> tuple[Approach, ...]:
    """The approaches to search over. A resumed run's file names its own, and what a file names is not imported."""
    chosen = [find_approach(approach) for approach in config.approaches] or list(APPROACHES.values())
    names = [approach.name for approach in chosen]
    if len(set(names)) < len(names):
        raise UsageError(expected="each approach once", got=", ".join(names), fix="drop one", where="--approaches")
    path = Path(config.resume or "") / RUN
    if config.resume is None or not path.is_file():
        return tuple(chosen)
    began = options_of(path).approaches
    if config.approaches and sorted(names) != sorted(began):
        fix = "leave them out, or begin another run"
        expected = f"the approaches of the run, {', '.join(began)}"
        raise UsageError(expected=expected, got=", ".join(names), fix=fix, where="--approaches")
    return tuple(trusted_approach(name, (), dict(zip(names, chosen, strict=True)), str(path)) for name in began)


def jobs_for(approaches: Sequence[Approach], jobs: int) -> int:
    """``jobs``, or 1 with a warning where a foreign part cannot be sent to another process."""
    foreign = [approach for approach in approaches if approach.foreign_parts()]
    reasons = [reason for approach in foreign if jobs > 1 and (reason := refusal_to_travel(approach))]
    if not reasons:
        return jobs
    warnings.warn(f"one process instead of {jobs}: {reasons[0]}", RuntimeWarning, stacklevel=2)
    return 1


def options_of(path: Path) -> FewShotConfig:
    """The options that a run wrote down."""
    try:
        stored = read_json(path)["config"]
        return FewShotConfig(**(stored | {"approaches": tuple(stored["approaches"])}))
    except (KeyError, TypeError) as error:
        fix = "resume it with the release that began it, or begin another run"
        raise ArtifactError(
            expected="the options of a run", got=f"{type(error).__name__}: {error}", fix=fix, where=str(path)
        ) from error


def output_folder(config: FewShotConfig) -> Path:
    """--out, or a name that says what ran."""
    if config.out:
        return Path(config.out)
    model = config.model_name.replace("/", "-").replace(":", "-")
    return Path("runs") / f"{Path(config.data).resolve().name if not config.builtin else config.data}-{model}"


def claim(
    out: Path, config: FewShotConfig, approaches: Sequence[Approach], dataset: ImageDataset, backbone: Backbone
) -> None:
    """Write down what this run is, or make sure that it is the one that the folder holds already."""
    key = {
        "options": config.study_key(),
        "fingerprint": dataset.fingerprint(),
        "backbone": backbone.digest,
    }
    foreign = [part for approach in approaches for part in approach.foreign_parts()]
    key = json.loads(json.dumps(key | ({"foreign": foreign} if foreign else {})))
    path = out / RUN
    if path.is_file():
        held = read_json(path)["key"]
        if held != key:
            changed = [name for name in key["options"] if held["options"].get(name) != key["options"][name]]
            what = (
                f"one with other {', '.join(changed)}" if changed else "one begun with other pictures, weights or code"
            )
            fix = "choose another --out, or --resume it under its own options"
            raise ArtifactError(expected="an empty folder or one of the same run", got=what, fix=fix, where=str(out))
    for folder in (out, out / TRIALS):
        remove_half_files(folder)
    write_json(path, {"key": key, "config": config.to_json()})


def search(
    config: FewShotConfig,
    task: Task,
    support: Prepared,
    depth: int,
    out: Path,
    clock: Stopwatch,
    progress: Progress,
    crew: Crew,
) -> list[TrialRecord]:
    """The study on the validation folds of the support set; none at one shot a class."""
    folds = len(task.folds(support.data.labels))
    if folds == 0:
        return []
    trainings = (config.seeds + 1) * (len(config.approaches) + CALIBRATION_FOLDS)
    allowance = None if config.budget is None else Allowance(config.budget, clock.began, trainings)
    deadline = allowance.deadline if allowance else None
    options = {name: value for name, value in config.study_key().items() if name not in ("data", "model")}
    same = json.dumps([options, task.pool.fingerprint(), task.backbone.digest], sort_keys=True)  # wherever they lie
    name = sha256_bytes(same.encode())[:16]
    plan = StudyPlan(config.n_trials, folds, config.seed, out / TRIALS, config.storage, deadline, name)
    space = SearchSpace(task.approaches, depth)

    def told(done: int, record: TrialRecord) -> None:
        progress("search", done, config.n_trials)
        if allowance:
            allowance.observe(record)

    return run_study(space, fold_scores(task, support), plan, told, crew)


def refit_fresh(
    config: FewShotConfig, task: Task, winners: Mapping[str, Point], progress: Progress, crew: Crew
) -> list[Fit]:
    """The winners on support sets that the search never saw."""
    fits = []
    for draw in range(1, config.seeds + 1):
        fits.append(refit(task, winners, draw, crew))
        progress("refit", draw, config.seeds)
    return fits


def saved_model(
    config: FewShotConfig, task: Task, fit: Fit, best: str, rejectors: Sequence[Rejector]
) -> OpenWorldClassifier:
    """The best approach on the support set of the search, with its detector: what `predict` loads."""
    space = fit.support.images.label_space
    options = {"epochs": config.epochs, "views": config.n_views, "seed": config.seed}
    classifier = FewShotClassifier.from_model(task.backbone, task.by_name[best], fit.models[best], space, **options)
    reference = fit.support.frozen, fit.support.data.labels
    rejector = rejectors[0] if rejectors else None
    return OpenWorldClassifier.from_fit(classifier, rejector, config.alpha, reference, fit.support.images)


@dataclass
class Allowance:
    """How long the search may go on for the whole run to end in time.

    What follows it costs about as many trainings as can be counted beforehand, each about as long as those of the
    trials so far.

    Attributes:
        budget: seconds of the whole run.
        began: ``time.monotonic()`` of its beginning.
        trainings: refits, and the calibration of the winner where that needs some.
        seconds: of one training, by trial.
    """

    budget: float
    began: float
    trainings: int
    seconds: list[float] = field(default_factory=list)

    def observe(self, record: TrialRecord) -> None:
        """Learn from a finished trial what a training costs."""
        if record.number > 0 and record.fold_values:
            self.seconds.append(record.seconds / len(record.fold_values))

    def deadline(self) -> float:
        """When the study must end so that the refits still fit into the budget, in monotonic seconds."""
        if len(self.seconds) < 3:  # the first training also pays for what is loaded when first used
            return self.began + 0.5 * self.budget
        return self.began + (1 - RESERVE) * self.budget - self.trainings * median(self.seconds)


@dataclass
class Stopwatch:
    """Seconds per hop."""

    began: float = field(default_factory=time.monotonic)
    laps: dict[str, float] = field(default_factory=dict)

    def lap(self, name: str) -> None:
        """End the part called ``name``, in seconds since the part before it."""
        self.laps[name] = round(time.monotonic() - self.began - sum(self.laps.values()), 3)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Deterministic CUDA kernels while the run lasts; those that have none warn and go on.

    On a CPU the kernels used here are deterministic anyway, and the switch would import torch's compiler (2 s).
    """
    before = torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.use_deterministic_algorithms(before)
