"""The few-shot trainer: one loop for all approaches, over states that the frozen layers left behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot import rng
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import Suffix
from clip_fewshot.errors import DivergedError
from clip_fewshot.prefix import Prefix, replay
from clip_fewshot.training.approach import CaptionBank, HeadObjective, Objective, TuneParams, build_objective
from clip_fewshot.training.optim import build_adamw, parameter_groups, set_learning_rate, warmup_cosine
from clip_fewshot.tuning import last_layers
from clip_fewshot.types import IndexArray, LabelArray


@dataclass(frozen=True)
class TrainSettings:
    """What the search leaves alone.

    Attributes:
        epochs: passes over the support set.
        min_steps: fewest optimiser steps, so that one shot a class still trains.
        batch: pictures per step.
        weight_decay: on matrices only.
        warmup: share of the steps with rising learning rate, in [0, 1].
        clip_norm: largest norm of the whole gradient.
    """

    epochs: int = 20
    min_steps: int = 60
    batch: int = 32
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip_norm: float = 1.0

    def steps(self, n: int) -> int:
        """Optimiser steps of a training on n pictures."""
        return max(self.min_steps, self.epochs * math.ceil(n / self.batch))


@dataclass(frozen=True)
class SupportData:
    """Labelled pictures as the frozen layers see them.

    Attributes:
        images: states of n pictures entering each cut.
        labels: (n,) in [0, n_classes).
    """

    images: Prefix
    labels: LabelArray
    n_classes: int
    captions: CaptionBank

    def subset(self, rows: IndexArray) -> SupportData:
        """The chosen pictures; the classes and captions stay."""
        return SupportData(self.images.subset(rows), self.labels[rows], self.n_classes, self.captions)


@dataclass(frozen=True)
class Tuned:
    """A trained image suffix and, where the approach has one, its head; both in eval mode."""

    suffix: Suffix
    head: nn.Module | None
    losses: tuple[float, ...]


def tune(backbone: Backbone, params: TuneParams, data: SupportData, settings: TrainSettings, seed: int) -> Tuned:
    """Train the last ``params.unfreeze`` layers and the objective's own modules on ``data``.

    Raises:
        DivergedError: the loss or a weight stopped being finite; names the step.
    """
    suffix = last_layers(backbone.visual, params.unfreeze)
    untuned = replay(data.images, params.unfreeze, suffix).to(backbone.device)
    labels = torch.as_tensor(data.labels, device=backbone.device)
    with rng.torch_seeded(seed, "initialise"):
        objective = build_objective(backbone, params, data.n_classes, data.captions, untuned, labels)
    trained = [(suffix, params.backbone_lr), *objective.trained(params)]
    for module, _ in trained:
        module.to(backbone.device).train()
    losses = _loop(backbone, suffix, objective, trained, data, params.unfreeze, settings, seed)
    head = objective.head if isinstance(objective, HeadObjective) else None
    suffix.eval().requires_grad_(False)
    if head is not None:
        head.eval().requires_grad_(False)
    return Tuned(suffix, head, tuple(losses))


def _loop(
    backbone: Backbone,
    suffix: Suffix,
    objective: Objective,
    trained: list[tuple[nn.Module, float]],
    data: SupportData,
    unfreeze: int,
    settings: TrainSettings,
    seed: int,
) -> list[float]:
    parameters = [p for module, _ in trained for p in module.parameters() if p.requires_grad]
    optimizer = build_adamw(parameter_groups(trained, settings.weight_decay))
    labels = torch.as_tensor(data.labels)
    steps = settings.steps(len(labels))
    losses = []
    for step, (items, views) in enumerate(
        balanced_batches(data.labels, data.images.views, settings.batch, steps, seed)
    ):
        set_learning_rate(optimizer, warmup_cosine(step, steps, settings.warmup))
        state = data.images.rows(unfreeze, items, views)
        device = state.tokens.device
        with backbone.autocast():
            features = suffix(state)
        loss = objective(features.float(), labels[items].to(device), step)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise _diverged(step, steps, losses[-1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()
    if not all(bool(p.isfinite().all()) for p in parameters):
        raise _diverged(steps, steps, math.nan)
    return losses


def balanced_batches(
    labels: LabelArray, views: int, batch: int, steps: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """``steps`` batches of (items, views) in which every class comes equally often, however many pictures it has.

    Classes take turns; each class deals its pictures in shuffled order and reshuffles when they run out. An
    item's view advances each time it is dealt.
    """
    draws = rng.generator(seed, "batches")
    classes = np.unique(labels)
    dealt = np.zeros(len(labels), dtype=np.int64)
    decks = {int(c): _deal(np.flatnonzero(labels == c), draws) for c in classes}
    turns = chain.from_iterable(draws.permutation(classes) for _ in iter(int, 1))
    for _ in range(steps):
        items = np.array([next(decks[int(next(turns))]) for _ in range(min(batch, len(labels)))])
        shown = np.empty_like(items)
        for place, item in enumerate(items):
            shown[place] = dealt[item] % views
            dealt[item] += 1
        yield torch.as_tensor(items), torch.as_tensor(shown)


def _deal(items: IndexArray, draws: np.random.Generator) -> Iterator[int]:
    while True:
        yield from (int(i) for i in draws.permutation(items))


def _diverged(step: int, steps: int, loss: float) -> DivergedError:
    return DivergedError("a finite loss", f"{loss} at step {step} of {steps}", "lower the learning rates", "training")
