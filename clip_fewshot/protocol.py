"""The measuring protocol: search on one support set, refit the winners on fresh ones, open the test set once.

What selects (the study, C, features and neighbours of the detector) is given a :class:`Task`, which holds training
pictures alone; the sealed sets reach :func:`measure` and nothing before it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from clip_fewshot import rng
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import Suffix
from clip_fewshot.classifier import PROBE, Recipe, TunedModel, fit_model, frozen_features, frozen_probe, prepare_support
from clip_fewshot.data.builtin import raw_pixels
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.collect import join
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, draw_support, stratified_folds
from clip_fewshot.discovery import Discovery, discover_classes
from clip_fewshot.features import image_features
from clip_fewshot.heads import zero_shot_weights
from clip_fewshot.metrics import weighted_f1
from clip_fewshot.openworld import NoveltyChoice, Rejector, fit_rejector
from clip_fewshot.probes import LinearProbe
from clip_fewshot.search import Evaluate, TrialRecord, best_by_approach
from clip_fewshot.training.approach import TuneParams, approach
from clip_fewshot.training.trainer import SupportData, TrainSettings
from clip_fewshot.types import BoolArray, FloatArray, IndexArray, LabelArray

MAX_FOLDS = 3


@dataclass(frozen=True)
class Task:
    """What may be looked at before the test set is opened.

    Attributes:
        pool: all training pictures of the known classes.
        shots: pictures per class in a support set, validation included.
    """

    backbone: Backbone
    pool: ImageDataset
    shots: int
    settings: TrainSettings
    views: int
    seed: int

    def support(self, draw: int) -> ImageDataset:
        """Support set number ``draw``; 0 is the one that the search sees."""
        return draw_support(self.pool, self.shots, self.seed if draw == 0 else rng.derive_seed(self.seed, "draw", draw))

    def folds(self, labels: LabelArray) -> list[tuple[IndexArray, IndexArray]]:
        """(train, validation) rows, cut out of the K shots; the same for every trial. Empty at one shot a class."""
        smallest = int(np.bincount(labels).min())
        return stratified_folds(labels, min(smallest, MAX_FOLDS), self.seed) if smallest > 1 else []


@dataclass(frozen=True)
class Prepared:
    """A support set behind the frozen layers.

    Attributes:
        frozen: (n, d) features of the untuned image tower.
        probe: logistic regression on them, its C chosen on folds of the support set.
    """

    images: ImageDataset
    data: SupportData
    frozen: FloatArray
    probe: LinearProbe

    def recipe(self, task: Task, params: TuneParams) -> Recipe:
        return Recipe(params, task.settings, self.probe.C_, task.seed)


def prepare(task: Task, images: ImageDataset, cuts: Sequence[int]) -> Prepared:
    """Run the frozen layers over a support set once, for all ``cuts``."""
    data = prepare_support(task.backbone, images, sorted({0, *cuts}), task.views, task.seed)
    frozen = frozen_features(task.backbone, data)
    return Prepared(images, data, frozen, frozen_probe(frozen, data.labels, task.seed))


def fold_scores(task: Task, support: Prepared) -> Evaluate:
    """The study's objective: weighted F1 in [0, 1] on one validation fold of the support set."""
    folds = task.folds(support.data.labels)

    def evaluate(params: TuneParams, fold: int) -> float:
        train, validation = folds[fold]
        model = fit_model(task.backbone, support.recipe(task, params), support.data.subset(train))
        held_out = support.data.subset(validation)
        predicted = model.probabilities(model.features(held_out.images)).argmax(axis=1)
        return weighted_f1(held_out.labels, predicted)

    return evaluate


def select(trials: Sequence[TrialRecord], approaches: Sequence[str]) -> tuple[dict[str, TuneParams], str]:
    """(the best point of each approach, the name of the best approach) by validation score alone.

    Without trials (one shot a class leaves nothing to validate on) every approach keeps its centre and the frozen
    probe, which has nothing to choose, is the best.
    """
    best = best_by_approach(trials)
    winners = {name: best[name].tuned if name in best else approach(name).centre for name in approaches}
    ranked = sorted(best, key=lambda name: (-best[name].value, best[name].number))
    return winners, ranked[0] if ranked else PROBE


@dataclass(frozen=True)
class Fit:
    """Models trained on one support set, by approach; the frozen probe is always among them."""

    draw: int
    support: Prepared
    models: Mapping[str, TunedModel]

    def recipe(self, task: Task, name: str) -> Recipe:
        """How the model of that approach was trained."""
        return self.support.recipe(task, self.models[name].params)


def refit(task: Task, winners: Mapping[str, TuneParams], draw: int) -> Fit:
    """Train each winner on all K shots of support set ``draw``."""
    points = {PROBE: TuneParams(PROBE), **winners}
    support = prepare(task, task.support(draw), [params.unfreeze for params in points.values()])
    models = {name: fit_model(task.backbone, support.recipe(task, p), support.data) for name, p in points.items()}
    return Fit(draw, support, models)


@dataclass(frozen=True)
class Sight:
    """Some pictures as the models of one fit see them.

    Attributes:
        features: approach -> (n, d); the frozen features stand under the frozen probe.
        judged: (n, d) under each judge of the fit's rejector.
    """

    features: Mapping[str, FloatArray]
    judged: Sequence[FloatArray]


def look(
    task: Task, images: ImageDataset, fits: Sequence[Fit], rejectors: Sequence[Rejector], names: Collection[str]
) -> list[Sight]:
    """``images`` as every fit sees them, all in one pass through the frozen layers.

    Args:
        rejectors: of the first fits, or of all.
        names: the approaches to look with; a fit that lacks one is skipped for it.
    """
    plan: list[tuple[int, str | None, tuple[int, Suffix]]] = []
    for i, fit in enumerate(fits):
        plan += [(i, name, (m.params.unfreeze, m.suffix)) for name, m in fit.models.items() if name in names]
        plan += [(i, None, suffix) for suffix in (rejectors[i].suffixes() if i < len(rejectors) else [])]
    columns = image_features(task.backbone, images, [suffix for _, _, suffix in plan])
    features: list[dict[str, FloatArray]] = [{} for _ in fits]
    judged: list[list[FloatArray]] = [[] for _ in fits]
    for (i, name, _), values in zip(plan, columns, strict=True):
        if name is None:
            judged[i].append(values)
        else:
            features[i][name] = values
    return [Sight(f, j) for f, j in zip(features, judged, strict=True)]


@dataclass(frozen=True)
class Rejection:
    """What the rejector of one fit says of test pictures of known classes and of pictures of unseen ones.

    Attributes:
        known, novel: (n,) and (m,) mean scores over the judges, higher = more normal.
        p_known, p_novel: their p-values.
    """

    rejector: Rejector
    known: FloatArray
    novel: FloatArray
    p_known: FloatArray
    p_novel: FloatArray

    @classmethod
    def of(cls, rejector: Rejector, known: Sight, novel: Sight) -> Rejection:
        """Both kinds are judged alike."""
        by_judge = [rejector.judge(sight.features[PROBE], sight.judged) for sight in (known, novel)]
        means = [np.mean(scores, axis=0) for scores in by_judge]
        return cls(rejector, *means, *(rejector.p_values(scores) for scores in by_judge))


def calibrate(task: Task, fit: Fit, name: str, choice: NoveltyChoice) -> Rejector:
    """The chosen detector on the support set of ``fit``, around its model of approach ``name``."""
    return fit_rejector(task.backbone, fit.recipe(task, name), fit.support.data, fit.support.frozen, choice)


@dataclass(frozen=True)
class Outcome:
    """What the test pictures of known and unseen classes revealed, opened once.

    Attributes:
        best: the approach that validation chose.
        fits: the saved model's fit first, then one per fresh support set.
        test: the test pictures of known classes; rows of features and predictions follow them.
        known: per fit, how it sees ``test``.
        novel: the pictures of unseen classes.
        unseen: per fit, how its frozen tower, best approach and judges see ``novel``.
        zero_shot: (n, c) probabilities from the class names alone.
        texts: (c, d) unit class weights of the zero-shot classifier.
        raw_pixels: (n,) labels by logistic regression on pixels, per fresh support set.
        rejections: per fit; empty without unseen classes.
    """

    best: str
    fits: Sequence[Fit]
    test: ImageDataset
    known: Sequence[Sight]
    novel: ImageDataset
    unseen: Sequence[Sight]
    zero_shot: FloatArray
    texts: FloatArray
    raw_pixels: Sequence[LabelArray]
    rejections: Sequence[Rejection]

    def probabilities(self, name: str) -> list[FloatArray]:
        """(n, c) of one approach for ``test``, per fresh support set."""
        pairs = zip(self.fits[1:], self.known[1:], strict=True)
        return [fit.models[name].probabilities(sight.features[name]) for fit, sight in pairs]


def open_test(
    task: Task, split: OpenWorldSplit, fits: Sequence[Fit], best: str, rejectors: Sequence[Rejector]
) -> Outcome:
    """Open both sealed sets, once, when nothing is left to choose."""
    test, novel = split.test.open("final test"), split.novel.open("final test")
    known = look(task, test, fits, rejectors, {name for fit in fits for name in fit.models})
    unseen = look(task, novel, fits, rejectors, {PROBE, best})
    sights = zip(rejectors, known, unseen, strict=False)
    rejections = [Rejection.of(*sight) for sight in sights] if len(novel) else []
    texts = zero_shot_weights(task.backbone, split.seen.names, TEMPLATES).cpu().numpy()
    zero_shot = _zero_shot(known[0].features[PROBE], texts, float(task.backbone.logit_scale.detach().exp()))
    raw = raw_pixels(test)
    by_pixels = [_pixel_probe(task, fit.support.images).predict(raw) for fit in fits[1:]]
    return Outcome(best, fits, test, known, novel, unseen, zero_shot, texts, by_pixels, rejections)


def _zero_shot(features: FloatArray, texts: FloatArray, scale: float) -> FloatArray:
    cosines = features @ texts.T / np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(softmax(scale * cosines, axis=1))


def _pixel_probe(task: Task, support: ImageDataset) -> LinearProbe:
    """The baseline that every pretrained feature must beat: the same probe, its C searched alike, on raw pixels."""
    return frozen_probe(raw_pixels(support), support.required_labels(), task.seed)


@dataclass(frozen=True)
class Encounter:
    """The saved model meets known and novel test pictures in one shuffled row.

    Attributes:
        names: what each of the m pictures really shows; for the report, no decision reads it.
        p_values: (m,), or None where there is nothing to calibrate a detector on.
        unknown: (m,) which pictures were called unknown.
        found: the groups among those, rows as in ``np.flatnonzero(unknown)``.
    """

    images: ImageDataset
    names: tuple[str, ...]
    probabilities: FloatArray
    p_values: FloatArray | None
    unknown: BoolArray
    found: Discovery | None


def meet(task: Task, outcome: Outcome, alpha: float) -> Encounter:
    """Decide picture by picture, then look for groups among what was called unknown."""
    images, names, order = _mixed(outcome.test, outcome.novel, task.seed)
    best, saved = outcome.best, outcome.fits[0]
    known, unseen = outcome.known[0].features, outcome.unseen[0].features
    both = {key: np.concatenate([known[key], unseen[key]])[order] for key in (PROBE, best)}
    probabilities = saved.models[best].probabilities(both[best])
    if not outcome.rejections:
        return Encounter(images, names, probabilities, None, np.zeros(len(images), dtype=bool), None)
    rejection = outcome.rejections[0]
    p_values = np.concatenate([rejection.p_known, rejection.p_novel])[order]
    unknown = rejection.rejector.flags(p_values, alpha)
    # Frozen features: tuning pulls the known classes apart and the unseen ones into each other.
    reference = saved.support.frozen, saved.support.data.labels
    found = discover_classes(both[PROBE][unknown], reference=reference, seed=task.seed)
    return Encounter(images, names, probabilities, p_values, unknown, found)


def _mixed(test: ImageDataset, novel: ImageDataset, seed: int) -> tuple[ImageDataset, tuple[str, ...], IndexArray]:
    """Both sets in one shuffled, unlabelled row; what each picture shows; and the order."""
    order = rng.generator(seed, "mixture").permutation(len(test) + len(novel))
    names = [name for part in (test, novel) for name in part.label_space.decode(part.required_labels())]
    return join([test, novel]).subset(order), tuple(names[int(i)] for i in order), order
