"""A contrastive training as it stands: what one step does to it, and what of it a checkpoint holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clip_fewshot.backbones.backbone import MAX_LOG_SCALE, Backbone
from clip_fewshot.contrastive.activation_memory import LossScale
from clip_fewshot.contrastive.averaging import RunningMean
from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.contrastive.objectives import ObjectiveModule
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.errors import DivergedError
from clip_fewshot.optim.adamw import AdamW, Optimizer, ParameterGroup, group_named_parameters, group_parameters
from clip_fewshot.optim.schedule import warmup_cosine_factor
from clip_fewshot.optim.sgd import SGD
from clip_fewshot.runtime.rng import seed_torch


class StepOutcome(NamedTuple):
    """What a step found.

    Its loss, the norm of the gradient before clipping, the factor on the peak rates, whether the step was taken.
    """

    loss: float
    gradient_norm: float
    factor: float
    taken: bool


class Training:
    """Model, optimiser, objective and place of a training of ``total`` steps.

    Everything random in a step comes from (seed, step, rank), so a checkpoint needs no state of a generator.
    """

    def __init__(self, model: Backbone, recipe: ObjectiveModule, options: ContrastiveOptions, total: int) -> None:
        self.model, self.recipe, self.options, self.total = model, recipe, options, total
        self.taken, self.loss = 0, math.nan
        groups = group_named_parameters(model, options.learning_rate, options.weight_decay, options.rates)
        groups += group_parameters([(recipe, options.learning_rate)], options.weight_decay)
        self.optimizer = _optimizer(groups, options)
        self.mean = RunningMean(model, options.averaging)
        self.scale = LossScale.for_float16() if activation_dtype(model) == torch.float16 else LossScale()

    def set_train_mode(self) -> None:
        """Training mode, except for towers that are frozen whole: their statistics stay too."""
        self.recipe.train()
        self.model.train()
        for tower in (self.model.visual, self.model.text):
            tower.train(any(p.requires_grad for p in tower.parameters()))

    def advance(self, batch: PairBatch, world: World) -> StepOutcome:
        """One step on this process's part of a batch.

        Raises:
            DivergedError: the loss, or the gradient without loss scaling, is not finite.
        """
        options, model = self.options, self.model
        with seed_torch(options.seed, "step", self.taken, world.rank, device=model.device):
            self.optimizer.zero_grad()
            self.recipe.prepare(batch, world, options.chunk)
            loss = contrastive_gradients(
                model, batch, self.recipe, world=world, chunk=options.chunk, loss_scale=self.scale.factor
            )
        self.loss, norm = float(loss), self.optimizer.gradient_norm()
        if not math.isfinite(self.loss):
            where = f"step {self.taken + 1} of {self.total}"
            got = f"{self.loss}"
            raise DivergedError(expected="a finite loss", got=got, fix="lower the learning rate", where=where)
        factor = warmup_cosine_factor(self.taken, self.total, options.warmup(self.total))
        take = self.scale.take(math.isfinite(float(norm)))
        self.taken += 1
        if take:
            self.optimizer.step(factor, norm)
            with torch.no_grad():
                model.logit_scale.clamp_(max=MAX_LOG_SCALE)
            self.recipe.after_step(model)
        self.mean.update(self.taken)
        return StepOutcome(self.loss, float(norm), factor, take)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that the steps to come depend on, not copied: filling them is going on from elsewhere."""
        found: dict[str, Tensor] = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        for part, tensors in (
            ("objective", self.recipe.state_dict()),
            ("optimizer", self.optimizer.tensors()),
            ("averaging", self.mean.tensors()),
        ):
            found |= {f"{part}.{name}": t for name, t in tensors.items()}
        return found

    def meta(self, per_epoch: int) -> dict[str, Any]:
        """Everything else, as JSON."""
        epoch, position = divmod(self.taken, per_epoch)
        place = {"steps_taken": self.taken, "epoch": epoch, "position": position, "loss": self.loss}
        about = {"model": self.model.name, "loss_scale": asdict(self.scale)}
        return place | about | {"identity": self.identity(per_epoch)}

    def identity(self, per_epoch: int) -> dict[str, Any]:
        """What must be equal in the run that goes on."""
        return self.options.identity() | {"total": self.total, "steps_per_epoch": per_epoch}

    def settle(self, meta: Mapping[str, Any], filled: Mapping[str, Tensor]) -> None:
        """Stand where the training that gave ``meta`` stood, after :meth:`tensors` have been filled with its own."""
        self.adopt(meta, filled)
        self.taken, self.loss = int(meta["steps_taken"]), float(meta["loss"])

    def adopt(self, meta: Mapping[str, Any], filled: Mapping[str, Tensor]) -> None:
        """Take over weights and optimiser of the training that gave ``meta``, at one's own step."""
        self.optimizer.taken = int(filled["optimizer.taken"])
        self.scale = LossScale(**meta["loss_scale"])


def _optimizer(groups: list[ParameterGroup], options: ContrastiveOptions) -> Optimizer:
    if options.optimizer == "sgd":
        return SGD(groups, options.clip_norm, momentum=options.momentum)
    return AdamW(
        groups,
        options.clip_norm,
        betas=options.betas,
        eps=options.eps,
        state_dtype=torch.bfloat16 if options.state_dtype == "bfloat16" else torch.float32,
        seed=options.seed,
    )


def activation_dtype(model: Backbone) -> torch.dtype:
    """The precision of the model's forward passes."""
    with model.autocast():
        kind = model.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def broadcast_state(tensors: list[Tensor], world: World) -> None:
    """Give all processes what process 0 has."""
    if world.size > 1:
        numbers = [t.detach() for t in tensors if t.dtype != torch.bool]  # constants, the others
        for tensor in numbers:
            if world.rank > 0:
                tensor.zero_()
        world.sum_(numbers)
