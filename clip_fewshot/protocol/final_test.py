"""The one look at the sealed sets: what every model says of them, and what the saved model does with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from clip_fewshot.conformal.prediction_sets import class_p_values, measure_losses, prediction_sets
from clip_fewshot.conformal.shift import Shift, find_shift
from clip_fewshot.data.builtin import raw_pixels
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.discovery import DiscovererPart
from clip_fewshot.discovery.undecided import Regrouped, discover_undecided
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.few_shot.approach import PROBE
from clip_fewshot.few_shot.model import fit_frozen_probe
from clip_fewshot.heads import zero_shot_weights
from clip_fewshot.open_world.rejector import Rejector
from clip_fewshot.open_world.sight import Observer, Sight, look
from clip_fewshot.probes import LinearProbe
from clip_fewshot.protocol.refits import Fit, Task
from clip_fewshot.protocol.zero_shot_accuracy import list_alike
from clip_fewshot.report.shifts import describe_shift
from clip_fewshot.runtime import rng
from clip_fewshot.types import BoolArray, FloatArray, IndexArray, LabelArray, LabelSpace


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
    def from_verdicts(cls, rejector: Rejector, known: Sight, novel: Sight) -> Rejection:
        """Judge known and novel pictures in the same way."""
        said = [rejector.verdict(sight.frozen, sight.judged) for sight in (known, novel)]
        return cls(rejector, said[0].scores, said[1].scores, said[0].p, said[1].p)


@dataclass(frozen=True)
class FinalTest:
    """What the test pictures of known and unseen classes revealed, opened once.

    Attributes:
        best: the approach that validation chose.
        fits: the saved model's fit first, then one per fresh support set.
        test: the test pictures of known classes; rows of features and predictions follow them.
        known: per fit, how it sees ``test``.
        novel: the pictures of unseen classes.
        unseen: per fit, how its frozen tower, best approach and judges see ``novel``.
        zero_shot: (n, c) probabilities from the class names alone; None where the model reads no texts.
        texts: (c, d) unit class weights of the zero-shot classifier, or (0, d).
        raw_pixels: (n,) labels by logistic regression on pixels, per fresh support set.
        rejections: per fit; empty without unseen classes.
        shift: whether ``test`` comes from elsewhere than the shots of the saved model.
    """

    best: str
    fits: Sequence[Fit]
    test: ImageDataset
    known: Sequence[Sight]
    novel: ImageDataset
    unseen: Sequence[Sight]
    zero_shot: FloatArray | None
    texts: FloatArray
    raw_pixels: Sequence[LabelArray]
    rejections: Sequence[Rejection]
    shift: Shift

    def list_notes(self) -> list[str]:
        """What a reader of these figures must know of them, each once."""
        notes = [model.note for fit in self.fits for model in fit.models.values() if model.note]
        if len(self.texts) and (alike := list_alike(torch.from_numpy(self.texts), self.test.label_space.names)):
            some = f"{len(alike)} class names are the same text to the model: {', '.join(alike[:5])}"
            notes.append(f"{some}; what reads names learns nothing from these: try another --model or --class-names")
        return list(dict.fromkeys([*notes, *describe_shift(self.shift, of_known=True)]))

    def probabilities(self, name: str) -> list[FloatArray]:
        """(n, c) of one approach for ``test``, per fresh support set."""
        pairs = zip(self.fits[1:], self.known[1:], strict=True)
        return [fit.models[name].probabilities(sight.features[name]) for fit, sight in pairs]


def open_test(
    task: Task, split: OpenWorldSplit, fits: Sequence[Fit], best: str, rejectors: Sequence[Rejector]
) -> FinalTest:
    """Open both sealed sets, once, when nothing is left to choose."""
    test, novel = split.test.open("final test"), split.novel.open("final test")
    observers = [Observer(*pair) for pair in zip_longest([fit.models for fit in fits], rejectors)]
    known = look(task.backbone, test, observers)
    best_only = [Observer({best: models[best]}, rejector) for models, rejector in observers]
    unseen = look(task.backbone, novel, best_only)
    sights = zip(rejectors, known, unseen, strict=False)
    rejections = [Rejection.from_verdicts(*sight) for sight in sights] if len(novel) else []
    templates = task.settings.templates or TEMPLATES
    texts, zero_shot = np.empty((0, known[0].frozen.shape[1]), np.float32), None
    if task.backbone.reads_texts:
        texts = zero_shot_weights(task.backbone, split.seen.names, templates).cpu().numpy()
        zero_shot = _zero_shot(known[0].frozen, texts, float(task.backbone.logit_scale.detach().exp()))
    raw = raw_pixels(test)
    by_pixels = [_pixel_probe(task, fit.support.images).predict(raw) for fit in fits[1:]]
    shift = find_shift(fits[0].support.frozen, fits[0].support.data.labels, known[0].frozen, task.seed)
    return FinalTest(best, fits, test, known, novel, unseen, zero_shot, texts, by_pixels, rejections, shift)


def _zero_shot(features: FloatArray, texts: FloatArray, scale: float) -> FloatArray:
    cosines = features @ texts.T / np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(softmax(scale * cosines, axis=1))


def _pixel_probe(task: Task, support: ImageDataset) -> LinearProbe:
    """The baseline that pretrained features must beat: the same probe and the same search for C, on raw pixels."""
    return fit_frozen_probe(raw_pixels(support), support.required_labels(), task.seed)


@dataclass(frozen=True)
class OpenWorldTest:
    """The saved model meets known and novel test pictures in one shuffled row.

    Attributes:
        names: what each of the m pictures really shows; for the report, no decision reads it.
        p_values: (m,), or None where there is nothing to calibrate a detector on.
        unknown: (m,) which pictures were called unknown.
        grouped: which of the m are unknown or joined a group, and the groups; None without a detector.
        possible: (m, c) which classes cannot be ruled out; None where no picture was held out.
        order: (m,) where each stands in the test pictures of known classes followed by those of unseen ones.
    """

    images: ImageDataset
    names: tuple[str, ...]
    probabilities: FloatArray
    p_values: FloatArray | None
    unknown: BoolArray
    grouped: Regrouped | None
    possible: BoolArray | None
    order: IndexArray

    def measure_sets(self, space: LabelSpace, alpha: float) -> dict[str, Any] | None:
        """How often the sets of classes hold the true one, over pictures of the known classes, and their size."""
        if self.possible is None:
            return None
        known = np.isin(self.names, space.names)
        sets, truth = self.possible[known], space.encode([name for name in self.names if name in space.names])
        held = accuracy_interval([sets[np.arange(len(truth)), truth]]).to_json()
        return {"alpha": alpha, "coverage": held, "size": float(sets.sum(axis=1).mean())}


def run_open_world_test(
    task: Task,
    outcome: FinalTest,
    alpha: float,
    method: str | DiscovererPart | None = None,
    losses: FloatArray | None = None,
) -> OpenWorldTest:
    """Decide picture by picture, then look for groups among what was called unknown.

    Args:
        method: of discovery, as in :func:`~clip_fewshot.discovery.discover_classes`.
        losses: (n,) of the support set, see :meth:`OpenWorldClassifier.calibrate_sets`.
    """
    images, names, order = _mixed(outcome.test, outcome.novel, task.seed)
    best, saved = outcome.best, outcome.fits[0]
    known, unseen = outcome.known[0].features, outcome.unseen[0].features
    both = {key: np.concatenate([known[key], unseen[key]])[order] for key in (PROBE, best)}
    probabilities, possible = saved.models[best].probabilities(both[best]), None
    if losses is not None:
        p = class_p_values(losses[~np.isnan(losses)], measure_losses(probabilities))
        possible = prediction_sets(p, alpha)
    if not outcome.rejections:
        none = np.zeros(len(images), dtype=bool)
        return OpenWorldTest(images, names, probabilities, None, none, None, possible, order)
    rejection = outcome.rejections[0]
    p_values = np.concatenate([rejection.p_known, rejection.p_novel])[order]
    unknown = rejection.rejector.flags(p_values, alpha)
    # Frozen features: tuning moves known classes away from each other and unseen ones into each other.
    reference = saved.support.frozen, saved.support.data.labels
    grouped = discover_undecided(both[PROBE], unknown, p_values, reference, method=method, seed=task.seed)
    return OpenWorldTest(images, names, probabilities, p_values, unknown, grouped, possible, order)


def _mixed(test: ImageDataset, novel: ImageDataset, seed: int) -> tuple[ImageDataset, tuple[str, ...], IndexArray]:
    """Both sets in one shuffled, unlabelled row; what each picture shows; and the order."""
    order = rng.generator(seed, "mixture").permutation(len(test) + len(novel))
    names = [name for part in (test, novel) for name in part.label_space.decode(part.required_labels())]
    return join_images([test, novel]).subset(order), tuple(names[int(i)] for i in order), order
