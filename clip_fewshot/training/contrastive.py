"""Contrastive training of both towers on image-caption pairs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.errors import DivergedError, UsageError
from clip_fewshot.heads.linear import LinearHead
from clip_fewshot.losses.cross_entropy import cross_entropy
from clip_fewshot.losses.matched import matched_cross_entropy, matched_floor
from clip_fewshot.rng import torch_seeded
from clip_fewshot.training.optim import AdamW, parameter_groups, warmup_cosine

MAX_LOG_SCALE = 4.6052  # ln 100: Radford et al., 2021, sec. 2.5: larger ones made training unstable


class MatchedBatch(NamedTuple):
    """One step's pairs.

    Attributes:
        images: (b, 3, h, w) preprocessed pixels.
        tokens: (k, l) token ids.
        matches: (b, k) bool, [i, j]: caption j is true of image i; k captions may then be more or fewer than the
            images. None: caption i belongs to image i alone.
        labels: (b,) class of each image, for the class loss; None where there is none.
    """

    images: Tensor
    tokens: Tensor
    matches: Tensor | None = None
    labels: Tensor | None = None


@dataclass(frozen=True)
class ContrastiveOptions:
    """How to train.

    Args:
        steps: optimiser steps.
        learning_rate: peak of the schedule.
        warmup: share of the steps over which the rate rises.
        weight_decay: on matrices (AdamW, decoupled).
        averaging: decay per step of the mean of the weights that is kept in the end, in [0, 1); 0: the last weights.
        clip_norm: largest norm of the gradient.
        n_classes: of the labels in the batches. Where it is not 0, the cross-entropy of a linear classifier on the
            image features is added, with a weight that falls from ``class_loss`` to 0 at ``class_until``. The text
            tower starts out giving all captions nearly the same feature, which teaches the image tower little; a
            classifier teaches it from the first step. The classifier is thrown away.
        class_loss: weight of the classifier's loss at the start.
        class_until: share of the steps after which training is contrastive alone.
        seed: of the classifier's first weights; the towers bring theirs.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    averaging: float = 0.99
    clip_norm: float = 1.0
    n_classes: int = 0
    class_loss: float = 1.0
    class_until: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.averaging < 1 or self.learning_rate <= 0 or self.clip_norm <= 0:
            raise UsageError(
                "steps > 0, rate > 0, clip_norm > 0, averaging in [0, 1)", f"{self}", "change it", "options"
            )


class StepReport(NamedTuple):
    """What a step saw: its loss, the least its batch allowed, the factor on the cosines, seconds since the start."""

    step: int
    loss: float
    floor: float
    scale: float
    seconds: float


def train_contrastive(
    backbone: Backbone,
    batches: Iterable[MatchedBatch],
    options: ContrastiveOptions,
    on_step: Callable[[StepReport], None] | None = None,
) -> Backbone:
    """Train both towers and the logit scale in place; the result is the running mean of the weights.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, figure 3, with
    targets shared by all captions that are true of an image (:func:`matched_cross_entropy`). Two runs on the same
    batches with the same number of threads end in the same weights.

    Args:
        backbone: the model; all its parameters train, except those that do not require a gradient.
        batches: at least ``options.steps`` of them.
        options: the optimiser's numbers.
        on_step: called after each step.

    Raises:
        DivergedError: the loss stopped being finite.
        UsageError: the batches ran out.
    """
    with torch_seeded(options.seed, "classifier"):
        classifier = (
            LinearHead(backbone.config.embed_dim, options.n_classes).to(backbone.device) if options.n_classes else None
        )
    trained: list[tuple[nn.Module, float]] = [(backbone, options.learning_rate)]
    if classifier is not None:
        trained.append((classifier, options.learning_rate))
    optimizer = AdamW(parameter_groups(trained, options.weight_decay), options.clip_norm)
    mean = _RunningMean(backbone, options.averaging)
    started = time.perf_counter()
    backbone.train()
    for step, batch in enumerate(_exactly(options.steps, batches)):
        share = options.class_loss * max(0.0, 1 - step / max(1.0, options.class_until * options.steps))
        contrast, total = _losses(backbone, classifier, batch, share)
        _descend(optimizer, total, warmup_cosine(step, options.steps, options.warmup))
        with torch.no_grad():
            backbone.logit_scale.clamp_(max=MAX_LOG_SCALE)
        mean.update()
        if on_step is not None:
            scale = float(backbone.logit_scale.detach().exp())
            on_step(
                StepReport(step, float(contrast), matched_floor(_matches(batch)), scale, time.perf_counter() - started)
            )
    mean.install()
    return backbone.eval()


def _exactly(steps: int, batches: Iterable[MatchedBatch]) -> Iterator[MatchedBatch]:
    given = 0
    for batch in islice(batches, steps):
        given += 1
        yield batch
    if given < steps:
        raise UsageError(f"{steps} batches", f"{given}", "give more batches or fewer steps", "batches")


def _matches(batch: MatchedBatch) -> Tensor:
    return torch.eye(len(batch.images), dtype=torch.bool) if batch.matches is None else batch.matches


def _losses(
    backbone: Backbone, classifier: LinearHead | None, batch: MatchedBatch, share: float
) -> tuple[Tensor, Tensor]:
    """The contrastive loss, for the report, and that plus its share of the class loss, to descend."""
    features = backbone.encode_image(batch.images)
    texts = F.normalize(backbone.encode_text(batch.tokens), dim=1)
    logits = backbone.logit_scale.exp() * F.normalize(features, dim=1) @ texts.T  # (b, k)
    contrast = matched_cross_entropy(logits, _matches(batch).to(backbone.device))
    if classifier is None or share == 0:
        return contrast.detach(), contrast
    if batch.labels is None:
        raise UsageError("labels in each batch", "none", "give them, or n_classes=0", "batches")
    return contrast.detach(), contrast + share * cross_entropy(classifier(features), batch.labels.to(backbone.device))


def _descend(optimizer: AdamW, loss: Tensor, factor: float) -> None:
    if not torch.isfinite(loss):
        raise DivergedError(
            "a finite loss", f"{float(loss.detach())}", "lower the learning rate", "contrastive training"
        )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step(factor)


class _RunningMean:
    """Exponential mean of the weights; it forgets the start fast (decay at most (1 + t) / (10 + t) at step t)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._live: list[Tensor] = list(module.parameters())
        self._mean = [copy.deepcopy(parameter.detach()) for parameter in self._live]
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        weight = 1 - min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._mean, self._live, weight)

    @torch.no_grad()
    def install(self) -> None:
        if self._decay > 0:
            torch._foreach_copy_(self._live, self._mean)
