"""A trained model, and what is needed to train one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import Suffix
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import stratified_folds
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.evaluation.calibration import fit_temperature, match_temperature
from clip_fewshot.features.encode import image_prefix
from clip_fewshot.features.prefix import Prefix, replay
from clip_fewshot.few_shot.approach import LINEAR_PROBE, UNFREEZE, Approach, Point
from clip_fewshot.few_shot.objectives import CaptionBank, text_cuts
from clip_fewshot.few_shot.trainer import SupportData, TrainSettings, tune
from clip_fewshot.few_shot.unlabelled import Unlabelled, UnlabelledUse
from clip_fewshot.probes import LinearProbe, Probe, TextPriorProbe, find_probe
from clip_fewshot.tuning import copy_last_layers
from clip_fewshot.types import FloatArray, LabelArray

HELD_OUT = 3  # folds
HIGHEST_TEMPERATURE = 8.0
HIGHEST_AT_ONE_SHOT = 2.0  # of so few pictures little is known


@dataclass(frozen=True)
class TunedModel:
    """A trained image suffix and what classifies its features: a head or a probe.

    Attributes:
        note: what :func:`note_if_below_frozen` found, if it was asked.
        unlabelled: what unlabelled pictures did to the probe, where it was given any.
        temperature: what the head's logits are divided by for their softmax to be right, see
            :func:`fit_calibrated`. Probes need none.
    """

    point: Point
    suffix: Suffix
    head: nn.Module | None
    probe: Probe | None
    note: str = ""
    temperature: float = 1.0
    unlabelled: UnlabelledUse | None = None

    def __repr__(self) -> str:
        return f"TunedModel({self.point}, {type(self.head if self.probe is None else self.probe).__name__})"

    def features(self, prefix: Prefix) -> FloatArray:
        """(n, d) features of stored inputs under the suffix, not normalised."""
        return replay(prefix, self.point.unfreeze, self.suffix).numpy()

    def probabilities(self, features: FloatArray) -> FloatArray:
        """(n, d) features under the suffix -> (n, c); n >= 1."""
        if self.probe is not None:
            return _by_class(self.probe, self.probe.predict_proba(features))
        return np.asarray(softmax(self.logits(features) / self.temperature, axis=1))

    def logits(self, features: FloatArray) -> FloatArray:
        """(n, d) features under the suffix -> (n, c), before any temperature."""
        if self.probe is not None:
            return _by_class(self.probe, self.probe.logits(features))
        if self.head is None:
            raise UsageError(expected="a model with a head or a probe", got="neither", fix="fit it first")
        with torch.no_grad():
            device = next(iter(self.head.state_dict().values())).device  # some have no parameter
            return np.asarray(self.head(torch.as_tensor(features, device=device)).float().cpu().numpy())


def _by_class(probe: Probe, columns: FloatArray) -> FloatArray:
    """(n, c) in the order of the classes' numbers: one that got its pictures late stands last in its probe."""
    return np.take(columns, np.argsort(probe.classes_), axis=1)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training besides the pictures.

    Attributes:
        probe_c: inverse regularisation of probes on tuned features. Chosen on frozen features: tuned features of
            the support set have seen its labels and would always ask for less regularisation. None: not known.
        probe: what classifies where the approach has no head, as :func:`find_probe` takes it; None: the approach's own.
    """

    approach: Approach
    point: Point
    settings: TrainSettings
    probe_c: float | None
    seed: int
    probe: str | type[Probe] | None = None

    @property
    def reads_texts(self) -> bool:
        """Whether the texts of the classes are read."""
        return reads_texts(self.approach, self.probe)

    @property
    def takes_unlabelled(self) -> bool:
        """Whether the probe learns from unlabelled pictures too."""
        return takes_unlabelled(self.approach, self.probe)

    def fit_probe(
        self,
        features: FloatArray,
        labels: LabelArray,
        texts: FloatArray | None = None,
        unlabelled: Unlabelled | None = None,
    ) -> Probe:
        """The recipe's probe on (n, d) features and their (n,) labels in 0..c-1.

        Args:
            texts: (c, d) of the classes, for a probe that reads them.
            unlabelled: further pictures, for a probe that takes them.

        Raises:
            UsageError: a probe that does not take the options of the point.
        """
        name, kind = find_probe(self.probe or self.approach.probe)
        options: dict[str, Any] = {"C": self.probe_c} if kind.takes_c and self.probe_c is not None else {}
        if self.approach.towers == "none":
            options |= self.point.part_options()
        if texts is not None and self.approach.towers == "none" and getattr(kind, "reads_texts", False):
            options["texts"] = {label: texts[label] for label in np.unique(labels).tolist()}
        try:
            probe = kind(**options)
        except TypeError as error:
            fix = "name in `centre` and `options` what the probe's constructor takes"
            expected = f"a probe that takes {', '.join(options) or 'no options'}"
            raise UsageError(expected=expected, got=str(error), fix=fix, where=f"probe {name!r}") from error
        if unlabelled is not None and self.takes_unlabelled:
            return probe.fit(features, labels, unlabelled=unlabelled.features)  # type: ignore[call-arg]
        return probe.fit(features, labels)


def takes_unlabelled(approach: Approach, probe: str | type[Probe] | None = None) -> bool:
    """Whether a model of ``approach`` ends in a probe on frozen features that learns from unlabelled pictures too."""
    if approach.towers != "none" or approach.ends_in != "probe":
        return False
    return getattr(find_probe(probe or approach.probe)[1], "takes_unlabelled", False)


def reads_texts(approach: Approach, probe: str | type[Probe] | None = None) -> bool:
    """Whether a model of ``approach`` reads the texts of the classes: its probe, or its head, which starts from them.

    Texts and pictures are compared where one model made both. That is the frozen space: a probe reads none behind tuned
    layers, and a head begins there.
    """
    if approach.towers != "none":
        return approach.head is not None
    return getattr(find_probe(probe or approach.probe)[1], "reads_texts", False)


def fit_model(backbone: Backbone, recipe: Recipe, data: SupportData) -> TunedModel:
    """Tune and, where the approach has no head of its own, fit the probe on the tuned support features."""
    approach, point = recipe.approach, recipe.point
    if approach.towers == "none":
        suffix, head = copy_last_layers(backbone.visual, 0).eval(), None
    else:
        tuned = tune(backbone, approach, point, data, recipe.settings, recipe.seed)
        suffix, head = tuned.suffix, tuned.head
    if approach.ends_in == "head":
        return TunedModel(point, suffix, head, None)
    features, given = replay(data.images, point.unfreeze, suffix).numpy(), data.unlabelled
    probe = recipe.fit_probe(features, data.labels, data.captions.texts, given)
    used = None if given is None or not recipe.takes_unlabelled else UnlabelledUse.of(given, probe)
    return TunedModel(point, suffix, None, probe, unlabelled=used)


def fit_calibrated(backbone: Backbone, recipe: Recipe, data: SupportData, validated: float | None = None) -> TunedModel:
    """:func:`fit_model`, with a temperature: the head is then as sure of its own pictures as a probe of them is.

    A head's logits are of no scale: it is trained on when it is sure already. The frozen probe has learned from the
    same pictures, and its penalty is the one under which held-out ones are likeliest. Held-out thirds for all heads
    would be three trainings more, and are no nearer to the best temperature (docs/figures/calibration.md). They are
    asked where a head is less sure than the probe: it has learned less of its pictures, or has small logits. At one
    shot a class there are none, and it is left as it is.

    Args:
        validated: the temperature that held-out pictures ask for, where they were asked already: by heads that learned
            from fewer, so that the geometric mean of it and the matched one is taken.
    """
    model = fit_model(backbone, recipe, data)
    if model.head is None:
        return model
    shots = int(np.bincount(data.labels).min())
    logits, reference = model.logits(model.features(data.images)), _reference(data, recipe.probe_c)
    highest = HIGHEST_TEMPERATURE if shots > 1 else HIGHEST_AT_ONE_SHOT
    matched = 1.0 if reference is None else match_temperature(logits, reference, highest)
    if matched == 1 and shots > 1:
        temperature = validated or _validate(backbone, recipe, data, min(shots, HELD_OUT))
    else:
        temperature = matched if validated is None else (matched * validated) ** 0.5
    return replace(model, temperature=temperature)


def _reference(data: SupportData, C: float | None) -> FloatArray | None:
    """(n, c) probabilities of its own pictures by a probe whose penalty they chose; None where nothing chooses it.

    That is the logistic probe, or at one shot a class, where no picture can be held out, the text-informed one.
    """
    features = encode_frozen(data)
    if np.bincount(data.labels).max() > 1:
        return LinearProbe(C=C).fit(features, data.labels).predict_proba(features)
    if data.captions.texts is None:
        return None
    return TextPriorProbe(dict(enumerate(data.captions.texts))).fit(features, data.labels).predict_proba(features)


def _validate(backbone: Backbone, recipe: Recipe, data: SupportData, n_folds: int) -> float:
    logits = np.empty((len(data.labels), data.n_classes))
    for train, held_out in stratified_folds(data.labels, n_folds, recipe.seed):
        trained = fit_model(backbone, recipe, data.subset(train))
        logits[held_out] = trained.logits(trained.features(data.images.subset(held_out)))
    return fit_temperature(logits, data.labels)


def note_if_below_frozen(backbone: Backbone, recipe: Recipe, data: SupportData, model: TunedModel) -> str:
    """A warning where ``model`` knows its own support set less well than without a layer that trains, else ""."""
    point = model.point
    right = _support_accuracy(model, data)
    if point.unfreeze == 0 or right == 1:
        return ""
    if recipe.approach.ends_in == "probe":
        probe = recipe.probe or recipe.approach.probe
        start = replace(recipe, approach=LINEAR_PROBE, point=LINEAR_PROBE.point, probe=probe)
    else:
        start = replace(recipe, point=Point(point.approach, {**point.options, UNFREEZE: 0}))
    before = _support_accuracy(fit_model(backbone, start, data), data)
    if right >= before:
        return ""
    return (
        f"{point.approach} knows {right:.3f} of its support set with the last {point.unfreeze} layers tuned, and "
        f"{before:.3f} with frozen ones: lower `backbone_lr`, or unfreeze fewer"
    )


def _support_accuracy(model: TunedModel, data: SupportData) -> float:
    return float((model.probabilities(model.features(data.images)).argmax(axis=1) == data.labels).mean())


def prepare_support(
    backbone: Backbone,
    support: ImageDataset,
    cuts: Sequence[int],
    views: int,
    seed: int,
    memory: int | None = None,
    templates: Sequence[str] = (),
    reads_texts: bool = False,
    reads_captions: bool = True,
) -> SupportData:
    """Run the frozen layers of both towers over the pictures and the captions of their classes, once.

    Args:
        memory: bytes of states held in memory, over which they are mapped from the disk; None: a quarter of RAM.
        templates: of the captions, as in :class:`TrainSettings`.
        reads_texts: whether an approach does; see :func:`reads_texts`.
        reads_captions: whether an approach trains both towers.
    """
    names = support.label_space.names
    return SupportData(
        images=image_prefix(backbone, support, cuts, views, memory),
        labels=support.required_labels(),
        n_classes=len(names),
        captions=CaptionBank(
            backbone,
            names,
            text_cuts(backbone, cuts),
            seed,
            templates=templates,
            reads_texts=reads_texts,
            reads_captions=reads_captions,
        ),
    )


def encode_frozen(data: SupportData) -> FloatArray:
    """(n, d) features of the untuned image tower."""
    return data.images.frozen_features().cpu().numpy()


def fit_frozen_probe(features: FloatArray, labels: LabelArray, seed: int) -> LinearProbe:
    """The probe on frozen features, its C chosen on folds of the support set itself."""
    return LinearProbe(seed=seed).fit(features, labels)


def check_classes(support: ImageDataset) -> None:
    """Refuse pictures of fewer than two classes, or a class without any, with how many each has."""
    counts = support.counts()
    if len(counts) < 2 or min(counts.values()) == 0:
        expected, fix = "two classes or more, each with pictures", "add pictures"
        raise DataError(expected=expected, got=str(counts), fix=fix, where=support.name)
