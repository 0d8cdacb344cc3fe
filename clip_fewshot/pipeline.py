"""The main job, every hop on one screen: from pictures on disk to a report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.config import FewShotConfig
from clip_fewshot.conformal.p_values import explain_alpha
from clip_fewshot.data.collect import read_images
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.few_shot.approach import Point
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.resources import choose_jobs, measure_resources
from clip_fewshot.few_shot.screening import drop_copies
from clip_fewshot.few_shot.search.allowance import Allowance
from clip_fewshot.few_shot.search.journal import JOURNAL, write_journal
from clip_fewshot.few_shot.search.space import SearchSpace
from clip_fewshot.few_shot.search.study import StudyPlan, run_study
from clip_fewshot.few_shot.select import TrialRecord, keep_trainable, select, select_by_approach
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.open_world.alternatives import CALIBRATION_FOLDS
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.feature_spaces import list_stored_depths
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.open_world.select_detector import select_detector
from clip_fewshot.protocol.final_test import open_test, run_open_world_test
from clip_fewshot.protocol.refits import (
    Fit,
    PreparedSupport,
    Task,
    build_evaluate,
    calibrate,
    count_image_steps,
    gather_held_out,
    prepare,
    refit,
    time_forward,
)
from clip_fewshot.protocol.results import Run, describe_unlabelled
from clip_fewshot.protocol.run_folder import (
    MODEL_FOLDER,
    TRIALS_FOLDER,
    check_run_folder,
    choose_approaches,
    claim,
    name_parts,
    resume_config,
    settle_depth,
    study_name,
)
from clip_fewshot.report.headline import RunResults
from clip_fewshot.report.page import write_report
from clip_fewshot.runtime.device import resolve_device, use_deterministic_kernels
from clip_fewshot.runtime.environment import describe_environment
from clip_fewshot.runtime.files import hash_file, hold_folder
from clip_fewshot.runtime.progress import report_steps
from clip_fewshot.runtime.workers import WorkerPool
from clip_fewshot.tuning import choose_depth
from clip_fewshot.types import FloatArray, Progress, ignore_progress


def run_few_shot(
    config: FewShotConfig, progress: Progress = ignore_progress, command: str = "clip_fewshot.run_few_shot(config)"
) -> RunResults:
    """Search, refit on fresh support sets, open the test set once, reject, discover, report.

    Args:
        config: what to do, with which pictures, and where to write.
        progress: called when a part begins and after each unit of work; by default nothing is.
        command: how to repeat the run, for the report.

    Returns:
        The content of results.json; ``to_frame()`` makes a DataFrame of its headline.

    Raises:
        DataError: the pictures cannot be used.
        ResourceError: no place to write to, no weights to be had, or another run holds the folder.
        ArtifactError: the folder holds another run, or pictures or weights are not those it began with.

    Example:
        >>> import clip_fewshot as cf
        >>> config = cf.FewShotConfig.of(data="digits", shots=1, unseen="0", seeds=1, approaches=("mlp",), out="run/")
        >>> results = cf.run_few_shot(config)
        >>> sorted(results["approaches"])
        ['mlp', 'text-prior']
    """
    approaches, config, clock = choose_approaches(config), resume_config(config), Stopwatch(progress)
    detector, method = config.run.detector, config.run.discoverer
    config = name_parts(config, approaches)
    data, run = config.data, config.run
    out = check_run_folder(config)
    with hold_folder(out), use_deterministic_kernels(resolve_device(run.device)):
        dataset = read_dataset(data.data, **data.reading())
        shots, unseen = data.shots, data.unseen_classes
        split = split_open_world(dataset, shots=shots, unseen=unseen, seed=data.seed, test_fraction=data.test_fraction)
        backbone = load_backbone(data.model_name, pretrained=data.pretrained, device=run.device)
        unlabelled = read_images([data.unlabelled]) if data.unlabelled is not None else None
        config = settle_depth(config, backbone)
        options = config.search
        claim(out, config, approaches, dataset, backbone, unlabelled)
        clock.begin("frozen layers")
        depth = min(choose_depth(backbone.visual, options.max_unfreeze), backbone.visual.n_blocks)
        approaches, left_out = keep_trainable(approaches, depth)
        jobs, threads, memory = measure_resources(run, backbone, depth)
        settings = TrainSettings(options.epochs, templates=data.template)
        allowed = unlabelled and drop_copies(unlabelled, {*dataset.digests}.difference(split.pool.digests))
        task = Task(backbone, split.pool, data.shots, settings, config.n_views, data.seed, memory, approaches, allowed)
        support = prepare(task, split.support, [*range(depth + 1), *list_stored_depths(backbone.visual)])
        clock.begin("search")
        with WorkerPool(choose_jobs(approaches, jobs), threads) as crew:
            allowance = Allowance(run.budget, clock.began, (options.seeds + 1) * (len(approaches) + CALIBRATION_FOLDS))
            folds = max(1, len(task.folds(support.data.labels)))  # one shot: all pictures, each left out in turn
            plan = _plan(config, out / TRIALS_FOLDER, folds, allowance, study_name(config, split.pool, backbone))
            trials = search(SearchSpace(approaches, depth), task, support, plan, allowance, progress, crew)
            clock.begin("refit")
            winners, best = select(trials, list(task.by_name.values()), depth)
            temperatures = {name: trial.temperature for name, trial in select_by_approach(trials).items()}
            saved = refit(task, {best: winners[best]}, 0, crew, temperatures)
            fits = [saved, *refit_fresh(task, winners, options.seeds, progress, crew, temperatures)]
        clock.begin("novelty")
        recipe, known = saved.recipe(task, best), saved.support
        asked = {"detector": detector, "n_neighbors": run.n_neighbors, "names": split.seen.names}
        choice = select_detector(backbone, recipe, known.data, known.frozen, pictures=known.images, **asked)
        judged = (fits if split.novel.n else fits[:1]) if choice else []
        steps = report_steps(judged, "calibrate", len(judged))
        rejectors = [calibrate(task, fit, best, choice) for fit in steps if choice]
        losses = gather_held_out(task, saved, select_by_approach(trials)[best])
        world = build_saved_model(task, saved, best, rejectors, options.alpha, losses)
        world.save(out / MODEL_FOLDER, run.overwrite)
        clock.begin("test")
        outcome = open_test(task, split, fits, best, rejectors)
        # What the study would have taken with every picture sent through the whole tower in every step.
        naive = sum(t.seconds for t in trials) + time_forward(task) * count_image_steps(task, support, trials)
        met = run_open_world_test(task, outcome, world.alpha_, method, world.known_.losses)
        notes = [*_describe_alpha(options.alpha, world, rejectors), *left_out, *outcome.list_notes()]
        finished = Run(config.to_json(), world.alpha_, dataset, split, trials, outcome, met, choice, naive, notes)
        clock.begin("report")
        results = finished.results() | describe_unlabelled(unlabelled, task, fits)
        results |= {"environment": describe_environment(backbone.device), "timing": clock.laps}
        results |= {"artifacts": _hash_files(out / MODEL_FOLDER)}
        write_report(out, results, finished.record(command))
    return RunResults(results)


def _plan(config: FewShotConfig, folder: Path, folds: int, allowance: Allowance, name: str) -> StudyPlan:
    run = config.run
    return StudyPlan(
        trials=run.n_trials,
        folds=folds,
        seed=config.data.seed,
        folder=folder,
        storage=run.storage,
        deadline=allowance.deadline,
        name=name,
    )


def search(
    space: SearchSpace,
    task: Task,
    support: PreparedSupport,
    plan: StudyPlan,
    allowance: Allowance,
    progress: Progress,
    crew: WorkerPool,
) -> list[TrialRecord]:
    """The study on the support set; at one shot a class, of what needs no validation folds."""
    if not task.folds(support.data.labels):
        space = replace(space, approaches=tuple(a for a in space.approaches if a.towers == "none" and not a.space))

    def told(done: int, record: TrialRecord) -> None:
        progress("search", done, plan.trials)
        allowance.observe(record)

    trials = run_study(space, build_evaluate(task, support), plan, told, crew)
    write_journal(plan.folder.parent / JOURNAL, plan.folder)
    return trials


def refit_fresh(
    task: Task,
    winners: Mapping[str, Point],
    seeds: int,
    progress: Progress,
    crew: WorkerPool,
    temperatures: Mapping[str, float],
) -> list[Fit]:
    """The winners on ``seeds`` support sets that the search never saw."""
    fits = []
    for draw in range(1, seeds + 1):
        fits.append(refit(task, winners, draw, crew, temperatures))
        progress("refit", draw, seeds)
    return fits


def _hash_files(model: Path) -> dict[str, str]:
    return {f"{MODEL_FOLDER}/{path.name}": hash_file(path) for path in sorted(model.iterdir())}


def _describe_alpha(asked: float | None, world: OpenWorldClassifier, rejectors: Sequence[Rejector]) -> list[str]:
    """What to say first: the usual alpha that rose, or one that was asked for and is refused."""
    if not rejectors:
        return []
    refused = rejectors[0].refusal(world.alpha_)
    blind = [] if refused is None else [f"no picture will be called unknown: {refused}"]
    return [*explain_alpha(asked, rejectors[0].n_calibration), *blind]


def build_saved_model(
    task: Task, fit: Fit, best: str, rejectors: Sequence[Rejector], alpha: float | None, losses: FloatArray | None
) -> OpenWorldClassifier:
    """The best approach on the support set of the search, with its detector: what `predict` loads."""
    space = fit.support.images.label_space
    settings = task.settings
    options = {"epochs": settings.epochs, "templates": settings.templates, "views": task.views, "seed": task.seed}
    classifier = FewShotClassifier.from_model(task.backbone, task.by_name[best], fit.models[best], space, **options)
    reference = fit.support.frozen, fit.support.data.labels
    rejector = rejectors[0] if rejectors else None
    given = fit.support.data.unlabelled
    return OpenWorldClassifier.from_fit(classifier, rejector, alpha, reference, fit.support.images, losses, given)


@dataclass
class Stopwatch:
    """Seconds per part of a run, and who is told when a part begins."""

    progress: Progress
    part: str = "read"
    began: float = field(default_factory=time.monotonic)
    laps: dict[str, float] = field(default_factory=dict)

    def begin(self, part: str) -> None:
        """End the part before, in seconds."""
        self.laps[self.part] = round(time.monotonic() - self.began - sum(self.laps.values()), 3)
        self.part = part
        self.progress(part, 0, 1)
