"""A support set that is ready to be trained on, here or in a worker process; and the choice of an approach on it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import stratified_folds
from clip_fewshot.errors import DivergedError
from clip_fewshot.evaluation.calibration import fit_left_out_temperature, log_losses
from clip_fewshot.few_shot.approach import APPROACHES, LINEAR_PROBE, Approach, Point
from clip_fewshot.few_shot.model import (
    Recipe,
    TunedModel,
    encode_frozen,
    fit_calibrated,
    fit_frozen_probe,
    fit_model,
    note_if_below_frozen,
    prepare_support,
)
from clip_fewshot.few_shot.screening import add_unlabelled
from clip_fewshot.few_shot.select import FoldScore, TrialRecord, keep_trainable, select, select_by_approach
from clip_fewshot.few_shot.text_needs import keep_readable, list_baselines
from clip_fewshot.few_shot.trainer import SupportData, TrainSettings
from clip_fewshot.tuning import choose_depth
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

MAX_FOLDS = 3
LOSS_DIGITS = 6  # decimals that a trial's file keeps


@dataclass(frozen=True)
class CrossValidation:
    """All that trainings on one support set share. Pickled, it holds the layers that can train and no others.

    Attributes:
        recipe: of every training, but for its approach and point.
        approaches: those that may be asked for, by name.
        folds: (train, validation) rows.
    """

    backbone: Backbone
    data: SupportData
    recipe: Recipe
    approaches: Mapping[str, Approach]
    folds: Sequence[tuple[IndexArray, IndexArray]]

    def score(self, point: Point, fold: int) -> FoldScore:
        """How likely the labels of one validation fold are, the study's objective.

        A closed form says itself what it would have said of each picture, had it not seen that one: it then learns from
        all others, where a fold leaves it a half or two thirds. At two shots zero-shot, which needs no picture, was
        chosen in 11 of 40 cases by folds and in 3 so (docs/figures/text_prior.md). Logits of what was trained are
        divided by a temperature first, as they are in the end: large logits are not better features. Each picture is
        judged under the temperature that the others ask for.
        """
        train, validation = self.folds[fold]
        left_out = self._leave_out(point)
        if left_out is not None:
            return _score(log_losses(left_out[validation], self.data.labels[validation]))
        model = fit_model(self.backbone, self._recipe(point), self.data.subset(train))
        held_out = self.data.subset(validation)
        logits = model.logits(model.features(held_out.images))
        if self.approaches[point.approach].towers == "none":
            return _score(log_losses(logits, held_out.labels))
        return _score(*fit_left_out_temperature(logits, held_out.labels))

    def score_left_out(self, point: Point, fold: int) -> FoldScore:
        """The same at one shot a class, where there are no folds: as bad as chance without a closed form."""
        logits = self._leave_out(point)
        if logits is None:
            return _score(np.full(len(self.data.labels), math.log(self.data.n_classes)))
        return _score(log_losses(logits, self.data.labels))

    def _leave_out(self, point: Point) -> FloatArray | None:
        """(n, c) logits of each picture as if it had not been seen; None where that has no closed form."""
        if self.approaches[point.approach].towers != "none":
            return None
        probe = fit_model(self.backbone, self._recipe(point), self.data).probe
        return getattr(probe, "left_out_logits", lambda: None)()

    def fit(self, point: Point, temperature: float | None = None) -> TunedModel:
        """Train on all pictures, and note where that was worse than training no layer.

        Args:
            temperature: that validation asked for; None: it was not asked.
        """
        model = fit_calibrated(self.backbone, self._recipe(point), self.data, temperature)
        note = note_if_below_frozen(self.backbone, self._recipe(point), self.data, model)
        return replace(model, note=note)

    def _recipe(self, point: Point) -> Recipe:
        return replace(self.recipe, approach=self.approaches[point.approach], point=point)

    def __getstate__(self) -> Mapping[str, Any]:
        deepest = max(self.data.images.cuts, default=0)
        return {**self.__dict__, "backbone": drop_first_layers(self.backbone, deepest)}


@dataclass(frozen=True)
class Choice:
    """An approach, the model of it on all pictures, and what was compared."""

    approach: Approach
    model: TunedModel
    recipe: Recipe
    trials: tuple[TrialRecord, ...]


def choose_model(
    backbone: Backbone,
    support: ImageDataset,
    settings: TrainSettings,
    views: int,
    seed: int,
    unlabelled: ImageDataset | None = None,
) -> Choice:
    """Compare the baselines and the approaches of this library on folds of ``support``, and fit the best on all of it.

    At one shot a class the baselines are compared on pictures that are left out in turn. See
    :func:`~clip_fewshot.few_shot.select.select` for the rule.
    """
    depth = min(choose_depth(backbone.visual, None), backbone.visual.n_blocks)
    baselines = list_baselines(backbone)
    readable = keep_readable([*APPROACHES.values()], backbone)[0]
    approaches = (*baselines, *keep_trainable(readable, depth)[0])
    starts = [approach.start(depth) for approach in approaches]
    cuts = sorted({start.unfreeze for start in starts})
    data = prepare_support(
        backbone,
        support,
        cuts,
        views,
        seed,
        templates=settings.templates,
        reads_texts=True,
        reads_captions=backbone.reads_texts,
    )
    frozen = encode_frozen(data)
    data = add_unlabelled(backbone, data, frozen, support, unlabelled)
    C = fit_frozen_probe(frozen, data.labels, seed).C_
    recipe = Recipe(LINEAR_PROBE, LINEAR_PROBE.point, settings, C, seed)
    by_name = {approach.name: approach for approach in approaches}
    bench = CrossValidation(backbone, data, recipe, by_name, split_validation(data.labels, seed))
    compared = approaches if bench.folds else baselines
    trials = [_judge(bench, number, approach, depth) for number, approach in enumerate(compared)]
    winners, best = select(trials, approaches, depth)
    temperature = select_by_approach(trials)[best].temperature
    chosen = Recipe(by_name[best], winners[best], settings, C, seed)
    return Choice(by_name[best], bench.fit(winners[best], temperature), chosen, tuple(trials))


def _judge(bench: CrossValidation, number: int, approach: Approach, depth: int) -> TrialRecord:
    point, began = approach.start(depth), time.perf_counter()
    evaluate, folds = (bench.score, len(bench.folds)) if bench.folds else (bench.score_left_out, 1)
    try:
        scores = [evaluate(point, fold) for fold in range(folds)]
    except DivergedError as error:
        return TrialRecord(number, "FAIL", point.to_json(), (), time.perf_counter() - began, str(error))
    return TrialRecord.from_scores(number, "COMPLETE", point, scores, time.perf_counter() - began)


def split_validation(labels: LabelArray, seed: int) -> list[tuple[IndexArray, IndexArray]]:
    """(train, validation) rows, cut out of the K shots; the same for every trial. Empty at one shot a class."""
    smallest = int(np.bincount(labels).min())
    return stratified_folds(labels, min(smallest, MAX_FOLDS), seed) if smallest > 1 else []


def _score(losses: FloatArray, temperature: float = 1.0) -> FoldScore:
    rounded = tuple(round(float(loss), LOSS_DIGITS) for loss in losses)
    return FoldScore(float(np.exp(-np.mean(rounded))), rounded, temperature)


def drop_first_layers(backbone: Backbone, n: int) -> Backbone:
    """``backbone`` with empty tensors, without memory, before the last ``n`` layers of each tower."""
    kept = {id(backbone.logit_scale)}
    for tower in (backbone.visual, backbone.text):
        for module in (*tower.blocks[max(0, tower.n_blocks - n) :], tower.tail()):
            kept |= {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    tensors = backbone.state_dict(keep_vars=True).values()
    return copy.deepcopy(
        backbone, {id(tensor): tensor if id(tensor) in kept else _emptied(tensor) for tensor in tensors}
    )


def _emptied(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
