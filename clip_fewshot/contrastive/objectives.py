"""What contrastive training descends: a function of the features, or a module that looks at each batch first."""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.contrastive.gradients import Objective, PairModel
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.geometry import normalise
from clip_fewshot.losses.symmetric import symmetric_cross_entropy, symmetric_floor


def symmetric_objective(images: Tensor, texts: Tensor, log_scale: Tensor, caption_ids: Tensor | None) -> Tensor:
    """CLIP's loss of features (n, d), not normalised; pairs of equal captions share their targets."""
    logits = log_scale.exp() * normalise(images) @ normalise(texts).T
    return symmetric_cross_entropy(logits, caption_ids)


def identity_objective(images: Tensor, texts: Tensor, log_scale: Tensor, caption_ids: Tensor | None) -> Tensor:
    """CLIP's loss as it was published: every other caption of the batch is wrong, equal or not."""
    return symmetric_objective(images, texts, log_scale, None)


@runtime_checkable
class StatefulObjective(Protocol):
    """An objective with a memory: a module whose parameters are trained with the model and saved in checkpoints."""

    def prepare(self, batch: PairBatch, world: World, chunk: int | None) -> None:
        """Look at this process's part of the next batch."""
        ...

    def after_step(self, model: PairModel) -> None:
        """Look at the model's new weights."""
        ...


@runtime_checkable
class BoundedObjective(Protocol):
    """An objective that knows the least value it can take on the batch that was prepared."""

    def floor(self) -> float:
        """The least value, in nats, of the loss on the batch that was prepared."""
        ...


class ObjectiveModule(nn.Module):
    """Any objective in one form: its state, what it wants to see, the least value of its loss."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective  # registered as a part, and saved, where it is a module

    def prepare(self, batch: PairBatch, world: World, chunk: int | None) -> None:
        """Let an objective with a memory look at the next batch."""
        watching: object = self.objective
        if isinstance(watching, StatefulObjective):
            watching.prepare(batch, world, chunk)

    def forward(self, images: Tensor, texts: Tensor, log_scale: Tensor, caption_ids: Tensor | None) -> Tensor:
        """The objective's loss, scalar."""
        return self.objective(images, texts, log_scale, caption_ids)

    def after_step(self, model: PairModel) -> None:
        """Let an objective with a memory look at the new weights."""
        watching: object = self.objective
        if isinstance(watching, StatefulObjective):
            watching.after_step(model)

    def floor(self, batch: PairBatch, world: World, device: torch.device) -> float:
        """Least value of the loss over the batches of all processes: by its captions, where nothing better is known."""
        knowing: object = self.objective
        if isinstance(knowing, BoundedObjective):
            return knowing.floor()
        if batch.caption_ids is None:
            return 0.0
        return symmetric_floor(world.gather(batch.caption_ids.to(device)))


def wrap_objective(objective: Objective | None, identity_targets: bool) -> ObjectiveModule:
    """None is CLIP's own."""
    own = identity_objective if identity_targets else symmetric_objective
    return ObjectiveModule(cast(Objective, own) if objective is None else objective)
