"""The few-shot trainer: one loop for all approaches, over states that the frozen layers left behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import Suffix
from clip_fewshot.config.ranges import require_int
from clip_fewshot.errors import DivergedError
from clip_fewshot.features.prefix import Prefix, replay
from clip_fewshot.few_shot.approach import BACKBONE_LR, TUNED_SHARE, Approach, Point
from clip_fewshot.few_shot.objectives import CaptionBank, TrainableLoss, build_objective, copy_tuned_layers
from clip_fewshot.few_shot.unlabelled import Unlabelled
from clip_fewshot.optim.adamw import AdamW, group_parameters
from clip_fewshot.optim.schedule import warmup_cosine_factor
from clip_fewshot.runtime import rng
from clip_fewshot.tuning.base import Penalised, StartsFrozen, blend_weights, check_share, finish_tuning
from clip_fewshot.types import IndexArray, LabelArray

CHECKED_EVERY = 16  # steps between looks at the loss
HELD_AT_ONCE = 64  # inputs that run together through what is frozen of a suffix


@dataclass(frozen=True)
class TrainSettings:
    """What the search leaves alone.

    Attributes:
        epochs: passes over the support set.
        min_steps: fewest optimiser steps, so that one shot a class still trains.
        batch: pictures per step, more where the support set is large: see :meth:`batch_size`.
        weight_decay: on matrices only.
        warmup: share of the steps with rising learning rate, in [0, 1].
        clip_norm: largest norm of the whole gradient.
        templates: texts with one "{}" of which captions and the texts of classes are made; empty: the usual ones.
    """

    epochs: int = 20
    min_steps: int = 60
    batch: int = 32
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip_norm: float = 1.0
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_int(self.epochs, "epochs", where="epochs")

    def steps(self, n: int) -> int:
        """Optimiser steps of a training on n pictures."""
        return max(self.min_steps, self.epochs * math.ceil(n / self.batch_size(n)))

    def batch_size(self, n: int) -> int:
        """Pictures per step of a training on n pictures: one in 32 of them, within ``batch`` and four times that.

        We rejected one in 16: the activations of five trained blocks raised the peak of a large study from 3.0 to 3.3
        GiB.
        """
        return min(max(self.batch, n // 32), 4 * self.batch)


@dataclass(frozen=True)
class SupportData:
    """Labelled pictures as the frozen layers see them.

    Attributes:
        images: states of n pictures entering each cut.
        labels: (n,) in [0, n_classes).
        unlabelled: further pictures of these classes, for a probe that takes them.
    """

    images: Prefix
    labels: LabelArray
    n_classes: int
    captions: CaptionBank
    unlabelled: Unlabelled | None = None

    def subset(self, rows: IndexArray) -> SupportData:
        """The chosen pictures; all else stays."""
        return replace(self, images=self.images.subset(rows), labels=self.labels[rows])


@dataclass(frozen=True)
class Tuned:
    """A trained image suffix and, where the approach has one, its head; both in eval mode."""

    suffix: Suffix
    head: nn.Module | None
    losses: tuple[float, ...]


def tune(
    backbone: Backbone, approach: Approach, point: Point, data: SupportData, settings: TrainSettings, seed: int
) -> Tuned:
    """Train the last ``point.unfreeze`` layers and the objective's own modules on ``data``.

    Raises:
        UsageError: options that a part refuses.
        DivergedError: the loss or a weight stopped being finite; names the step.
    """
    labels = torch.as_tensor(data.labels, device=backbone.device)
    share = float(point.options.get(TUNED_SHARE, 1.0))
    check_share(share)
    suffix = _copy_layers(backbone, approach, point, seed)
    with rng.seed_torch(seed, "initialise"):
        untuned = data.images.frozen_features()
        objective = build_objective(backbone, approach, point, data.n_classes, data.captions, untuned, labels)
    start = _copy_layers(backbone, approach, point, seed) if share < 1 else suffix
    trained = [(suffix, point.rate(BACKBONE_LR)), *objective.list_trained()]
    for module, _ in trained:
        module.to(backbone.device).train()
    optimizer = AdamW(group_parameters(trained, settings.weight_decay), settings.clip_norm)
    losses = _minimise(backbone, point.unfreeze, suffix, objective, data, optimizer, settings, seed)
    for module, _ in trained:
        module.eval().requires_grad_(False)
    suffix = finish_tuning(suffix)
    blend_weights(finish_tuning(start), suffix, share)
    objective.end(lambda: replay(data.images, point.unfreeze, suffix).to(backbone.device))
    return Tuned(suffix, objective.head, losses)


def _copy_layers(backbone: Backbone, approach: Approach, point: Point, seed: int) -> Suffix:
    """The layers that train, at their beginning; the same each time."""
    with rng.seed_torch(seed, "layers"):
        return copy_tuned_layers(approach, backbone.visual, point.unfreeze, point.part_options())


def _minimise(
    backbone: Backbone,
    n: int,
    suffix: Suffix,
    objective: TrainableLoss,
    data: SupportData,
    optimizer: AdamW,
    settings: TrainSettings,
    seed: int,
) -> tuple[float, ...]:
    """Train a suffix of ``n`` layers and the objective in place; the loss of each step."""
    labels = torch.as_tensor(data.labels, device=backbone.device)
    steps, batch = settings.steps(len(labels)), settings.batch_size(len(labels))
    if not optimizer.groups:  # a head that does not train, on frozen layers
        return ()
    with backbone.autocast():
        read = _hold_frozen_part(data.images, n, suffix)
    losses = []
    for step, (items, views) in enumerate(balanced_batches(data.labels, data.images.views, batch, steps, seed)):
        with backbone.autocast():
            features = read(items, views)
        loss = objective(features.float(), labels[items], step)
        if isinstance(suffix, Penalised):
            loss = loss + suffix.penalty(len(labels) / data.n_classes)
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step(warmup_cosine_factor(step, steps, settings.warmup))
        if step % CHECKED_EVERY == 0:
            _check(losses, steps)
    _check(losses, steps)
    if not all(bool(p.isfinite().all()) for group in optimizer.groups for p in group.parameters):
        raise _diverged(steps, steps, math.nan)
    return tuple(torch.stack(losses).tolist())


def _hold_frozen_part(images: Prefix, n: int, suffix: Suffix) -> Callable[[Tensor, Tensor], Tensor]:
    """(items, views) -> features under ``suffix``, of which the part that does not train has run once."""
    if n == 0 or not isinstance(suffix, StartsFrozen):
        return partial(images.outputs, n, suffix)
    pieces = torch.split(torch.arange(len(images)), HELD_AT_ONCE)
    with torch.no_grad():
        views = [torch.cat([suffix.before(images.rows(n, piece, v)) for piece in pieces]) for v in range(images.views)]
    held = torch.stack(views, dim=1)  # (inputs, views, w)
    return lambda items, views: suffix.after(held[items, views])


def balanced_batches(
    labels: LabelArray, views: int, batch: int, steps: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """``steps`` batches of (items, views) in which every class comes equally often, however many pictures it has.

    Classes take turns; each class gives its pictures in shuffled order and shuffles again when they run out. An
    item's view advances each time it is used.
    """
    batch = min(batch, len(labels))
    dealt = _rounds(labels, batch * steps, seed)
    passes = np.zeros_like(dealt)  # how often each item was used before
    order = np.argsort(dealt, kind="stable")
    first = np.searchsorted(dealt[order], dealt[order])
    passes[order] = np.arange(len(dealt)) - first
    items, shown = torch.from_numpy(dealt), torch.from_numpy(passes % views)
    for step in range(steps):
        now = slice(step * batch, (step + 1) * batch)
        yield items[now], shown[now]


def _rounds(labels: LabelArray, count: int, seed: int) -> IndexArray:
    """(count,) items: rounds in which each class deals one picture, in an order shuffled for each round."""
    draws = rng.generator(seed, "batches")
    classes = np.unique(labels)
    pictures = {int(c): np.flatnonzero(labels == c) for c in classes}
    decks: dict[int, IndexArray] = {}
    rounds = []
    for r in range(math.ceil(count / len(classes))):
        turn = draws.permutation(classes)
        for c in turn.tolist():
            if r % len(pictures[c]) == 0:
                decks[c] = draws.permutation(pictures[c])
        rounds.append([decks[c][r % len(pictures[c])] for c in turn.tolist()])
    return np.array(rounds, dtype=np.int64).ravel()[:count]


def _check(losses: Sequence[Tensor], steps: int) -> None:
    """On a GPU looking at a loss waits for the device, so they are looked at a few at a time."""
    start = max(0, len(losses) - CHECKED_EVERY)
    for step, loss in enumerate(torch.stack(list(losses[start:])).tolist(), start):
        if not math.isfinite(loss):
            raise _diverged(step, steps, loss)


def _diverged(step: int, steps: int, loss: float) -> DivergedError:
    return DivergedError(
        expected="a finite loss",
        got=f"{loss} at step {step} of {steps}",
        fix="lower the learning rates",
        where="training",
    )
