"""The measuring protocol: search on one support set, refit the winners on fresh ones, open the test set once.

What selects (the study, C, features and neighbours of the detector) is given a :class:`Task`, which holds training
pictures alone; the sealed sets are opened in `unsealing` and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.conformal.prediction_sets import measure_losses
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import draw_support
from clip_fewshot.features.encode import image_batches
from clip_fewshot.few_shot.approach import APPROACHES, BASELINES, LINEAR_PROBE, Approach, Point
from clip_fewshot.few_shot.cross_validation import CrossValidation, split_validation
from clip_fewshot.few_shot.model import (
    Recipe,
    TunedModel,
    encode_frozen,
    fit_calibrated,
    fit_frozen_probe,
    prepare_support,
    reads_texts,
)
from clip_fewshot.few_shot.screening import add_unlabelled
from clip_fewshot.few_shot.search.generation import Evaluate
from clip_fewshot.few_shot.select import TrialRecord
from clip_fewshot.few_shot.trainer import SupportData, TrainSettings
from clip_fewshot.open_world.alternatives import NoveltyChoice
from clip_fewshot.open_world.feature_spaces import list_stored_depths
from clip_fewshot.open_world.rejector import Rejector, fit_rejector
from clip_fewshot.probes import LinearProbe
from clip_fewshot.runtime import rng
from clip_fewshot.runtime.progress import report_steps
from clip_fewshot.runtime.workers import WorkerPool
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

TIMED = 8  # pictures
NO_TEMPERATURES: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Task:
    """What may be looked at before the test set is opened.

    Attributes:
        pool: all training pictures of the known classes.
        approaches: those that may be tuned.
        shots: pictures per class in a support set, validation included.
        unlabelled: pictures without labels, none of them a sealed one.
        memory: bytes of stored states held in memory, over which they are mapped from the disk; None: a quarter of RAM.
    """

    backbone: Backbone
    pool: ImageDataset
    shots: int
    settings: TrainSettings
    views: int
    seed: int
    memory: int | None = None
    approaches: tuple[Approach, ...] = tuple(APPROACHES.values())
    unlabelled: ImageDataset | None = None

    @property
    def by_name(self) -> dict[str, Approach]:
        """The baselines and all approaches."""
        return {a.name: a for a in (*BASELINES, *self.approaches)}

    def support(self, draw: int) -> ImageDataset:
        """Support set number ``draw``; 0 is the one that the search sees."""
        return draw_support(self.pool, self.shots, self.seed if draw == 0 else rng.derive_seed(self.seed, "draw", draw))

    def folds(self, labels: LabelArray) -> list[tuple[IndexArray, IndexArray]]:
        """(train, validation) rows, cut out of the K shots; the same for every trial. Empty at one shot a class."""
        return split_validation(labels, self.seed)


@dataclass(frozen=True)
class PreparedSupport:
    """A support set behind the frozen layers.

    Attributes:
        frozen: (n, d) features of the untuned image tower.
        probe: logistic regression on them, its C chosen on folds of the support set.
    """

    images: ImageDataset
    data: SupportData
    frozen: FloatArray
    probe: LinearProbe

    def recipe(self, task: Task, point: Point) -> Recipe:
        """How a model of that point is trained on this support set."""
        return Recipe(task.by_name[point.approach], point, task.settings, self.probe.C_, task.seed)


def prepare(task: Task, images: ImageDataset, cuts: Sequence[int]) -> PreparedSupport:
    """Run the frozen layers over a support set once, for all ``cuts``."""
    templates = task.settings.templates
    reads = any(reads_texts(approach) for approach in task.by_name.values())
    captions = any(approach.towers == "both" for approach in task.approaches)
    data = prepare_support(task.backbone, images, cuts, task.views, task.seed, task.memory, templates, reads, captions)
    frozen = encode_frozen(data)
    data = add_unlabelled(task.backbone, data, frozen, images, task.unlabelled)
    return PreparedSupport(images, data, frozen, fit_frozen_probe(frozen, data.labels, task.seed))


def build_cross_validation(task: Task, support: PreparedSupport) -> CrossValidation:
    """What trainings on a support set need, those of the study on its folds among them."""
    unset = support.recipe(task, LINEAR_PROBE.point)
    return CrossValidation(task.backbone, support.data, unset, task.by_name, task.folds(support.data.labels))


def build_evaluate(task: Task, support: PreparedSupport) -> Evaluate:
    """The study's objective: on folds, or at one shot a class on pictures that are left out."""
    bench = build_cross_validation(task, support)
    return bench.score if bench.folds else bench.score_left_out


def time_forward(task: Task) -> float:
    """Seconds that a picture takes through the whole image tower, timed on one batch of the support set."""
    support = task.support(0)
    (batch,) = image_batches(task.backbone, support.subset(np.arange(min(len(support), TIMED))), batch=TIMED)
    with torch.no_grad():
        task.backbone.encode_image(batch[:1])  # what is loaded when first used
        began = time.perf_counter()
        task.backbone.encode_image(batch).cpu()
    return (time.perf_counter() - began) / len(batch)


def count_image_steps(task: Task, support: PreparedSupport, trials: Sequence[TrialRecord]) -> int:
    """How often a training picture took part in an optimiser step of the study."""
    trained = [len(train) for train, _ in task.folds(support.data.labels)]
    per_fold = [task.settings.steps(n) * min(task.settings.batch_size(n), n) for n in trained]
    frozen = [name for name, approach in task.by_name.items() if approach.towers == "none"]
    return sum(sum(per_fold[: len(t.fold_values)]) for t in trials if t.params["approach"] not in frozen)


@dataclass(frozen=True)
class Fit:
    """Models trained on one support set, by approach; the baselines are always among them."""

    draw: int
    support: PreparedSupport
    models: Mapping[str, TunedModel]

    def recipe(self, task: Task, name: str) -> Recipe:
        """How the model of that approach was trained."""
        return self.support.recipe(task, self.models[name].point)


def refit(
    task: Task,
    winners: Mapping[str, Point],
    draw: int,
    crew: WorkerPool | None = None,
    temperatures: Mapping[str, float] = NO_TEMPERATURES,
) -> Fit:
    """Train each winner on all K shots of support set ``draw``; by ``crew``, or in this process.

    Args:
        temperatures: of the winners, where validation asked for one.
    """
    points = {**{a.name: a.point for a in BASELINES}, **winners}
    depths = list_stored_depths(task.backbone.visual)
    support = prepare(task, task.support(draw), [*(point.unfreeze for point in points.values()), *depths])
    bench = build_cross_validation(task, support)
    calls = [(bench.fit, (point, temperatures.get(name))) for name, point in points.items()]
    models = (crew or WorkerPool(1)).gather(calls)
    return Fit(draw, support, dict(zip(points, models, strict=True)))


def gather_held_out(task: Task, fit: Fit, trial: TrialRecord) -> FloatArray | None:
    """(n,) losses of the support set of the search, each by a model of the other folds; None where nothing is trained.

    Each is made as the saved one is, its temperature included. The losses of ``trial`` itself stand under temperatures
    of the folds alone: sets by them that were to hold 95 % of 85 photos held 61, 5, 0 and 1 % on four support sets, and
    97 % on average so. A closed form says itself what it expects of pictures that it has not seen, too well for a
    promise.
    """
    data, name = fit.support.data, trial.point.approach
    folds = task.folds(data.labels)
    if task.by_name[name].towers == "none" or not folds or len(trial.losses) < len(folds):
        return None
    losses = np.empty(len(data.labels))
    for train, validation in report_steps(folds, "fit on other folds", len(folds)):
        model = fit_calibrated(task.backbone, fit.recipe(task, name), data.subset(train), trial.temperature)
        said = measure_losses(model.probabilities(model.features(data.subset(validation).images)))
        losses[validation] = said[np.arange(len(validation)), data.labels[validation]]
    return losses


def calibrate(task: Task, fit: Fit, name: str, choice: NoveltyChoice) -> Rejector:
    """The chosen detector on the support set of ``fit``, around its model of approach ``name``."""
    support, names = fit.support, fit.support.images.label_space.names
    return fit_rejector(task.backbone, fit.recipe(task, name), support.data, support.frozen, choice, names=names)
