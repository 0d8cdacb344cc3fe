"""S3's mini-batched gradients, distillation targets and running mean as they were written."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_fewshot.contrastive.gradients import PairModel
from clip_fewshot.contrastive.objectives import identity_objective
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.losses.distillation import sinkhorn

MOMENTUM, TEMPERATURE, ALPHA = 0.999, 0.15, 0.5


def written_gradients(model: PairModel, batch: PairBatch, chunk: int) -> None:
    """Set ``.grad`` by one backward pass of the whole loss for each chunk of each tower, the other features held.

    Each pass brings the gradient of its own chunk, which is right, and the whole gradient of the logit scale.
    """
    for parameter in model.parameters():
        parameter.grad = None
    with torch.no_grad():
        images = [model.encode_image(part) for part in torch.split(batch.images, chunk)]
        texts = [model.encode_text(part) for part in torch.split(batch.tokens, chunk)]
    for j, part in enumerate(torch.split(batch.images, chunk)):
        _backward([*images[:j], model.encode_image(part), *images[j + 1 :]], texts, model)
    for j, part in enumerate(torch.split(batch.tokens, chunk)):
        _backward(images, [*texts[:j], model.encode_text(part), *texts[j + 1 :]], model)


def _backward(images: list[Tensor], texts: list[Tensor], model: PairModel) -> None:
    loss = identity_objective(torch.cat(images), torch.cat(texts), model.logit_scale, None)
    loss.backward()  # type: ignore[no-untyped-call]


def written_targets(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Targets per image and per text of (n, d) features: a transport of costs, from which the minus is missing.

    What should cost least, the picture's own caption, gets the least mass.
    """
    images, texts = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    costs = -(images @ texts.T + images @ images.T + texts @ texts.T)
    plan = sinkhorn(costs, TEMPERATURE)
    return plan / plan.sum(1, keepdim=True), plan.T / plan.T.sum(1, keepdim=True)


class WrittenDistillation(nn.Module):
    """An objective: half of the loss to the pairs, half to :func:`written_targets` of a teacher."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()
        self.taught: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def prepare(self, batch: PairBatch) -> None:
        """The teacher's targets for a batch."""
        teacher = cast(PairModel, self.teacher)
        self.taught = written_targets(teacher.encode_image(batch.images), teacher.encode_text(batch.tokens))

    def forward(self, images: Tensor, texts: Tensor, log_scale: Tensor, caption_ids: Tensor | None) -> Tensor:
        """Features (n, d) of the student -> loss."""
        logits = log_scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
        per_image, per_text = self.taught or (logits, logits)
        soft = (F.cross_entropy(logits, per_image) + F.cross_entropy(logits.T, per_text)) / 2
        return (1 - ALPHA) * identity_objective(images, texts, log_scale, None) + ALPHA * soft

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        """The running mean with its weights swapped: 0.999 of the student, 0.001 of the mean."""
        for mean, new in zip(self.teacher.parameters(), student.parameters(), strict=True):
            mean.copy_(MOMENTUM * new + (1 - MOMENTUM) * mean)
