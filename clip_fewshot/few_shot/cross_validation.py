"""A support set that is ready to be trained on, here or in a worker process."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.evaluation.metrics import weighted_f1
from clip_fewshot.few_shot.approach import Approach, Point
from clip_fewshot.few_shot.model import Recipe, TunedModel, fit_model, note_if_below_frozen
from clip_fewshot.few_shot.temperature import fit_calibrated
from clip_fewshot.few_shot.trainer import SupportData
from clip_fewshot.types import IndexArray


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

    def score(self, point: Point, fold: int) -> float:
        """Weighted F1 in [0, 1] on one validation fold: the study's objective.

        Many trials tie on folds of a few dozen pictures; the earlier trial then wins, which is the simpler one or the
        known-good centre. We rejected breaking ties by log loss: it prefers large logit scales, not better features.
        """
        train, validation = self.folds[fold]
        model = fit_model(self.backbone, self._recipe(point), self.data.subset(train))
        held_out = self.data.subset(validation)
        predicted = model.probabilities(model.features(held_out.images)).argmax(axis=1)
        return weighted_f1(held_out.labels, predicted)

    def fit(self, point: Point) -> TunedModel:
        """Train on all pictures, and note where that was worse than training no layer."""
        model = fit_calibrated(self.backbone, self._recipe(point), self.data)
        return replace(model, note=note_if_below_frozen(self.backbone, self._recipe(point), self.data, model))

    def _recipe(self, point: Point) -> Recipe:
        return replace(self.recipe, approach=self.approaches[point.approach], point=point)

    def __getstate__(self) -> Mapping[str, Any]:
        deepest = max(self.data.images.cuts, default=0)
        return {**self.__dict__, "backbone": drop_first_layers(self.backbone, deepest)}


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
