"""Self-distillation as an objective of contrastive training: the running mean of the model teaches the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from clip_fewshot.contrastive.distributed.world import SingleProcess, World
from clip_fewshot.contrastive.gradients import PairModel
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import normalise
from clip_fewshot.losses import SoftTargets, distillation_floor, distillation_loss, transport_targets
from clip_fewshot.losses.distillation import check_alpha


class SelfDistillation(nn.Module):
    """Contrastive loss with a share of the targets from a teacher, the exponential mean of the student's weights.

    Ruizhe Cheng, Bichen Wu, Peizhao Zhang, Peter Vajda, Joseph E. Gonzalez, "Data-Efficient Language-Supervised
    Zero-Shot Learning with Self-Distillation", 2021, section 3.2, with the targets of :func:`transport_targets`. The
    student meets both kinds of targets at its one logit scale; the authors learn a second one for the soft targets.

    An objective of ``train_contrastive``, which for each step calls :meth:`prepare`, the objective, :meth:`after_step`.
    Its state dict is the teacher and belongs into checkpoints.

    Args:
        student: the model that will be trained; the teacher starts as a copy of it.
        alpha: share of the teacher's targets, in [0, 1].
        momentum: m of ``teacher = m * teacher + (1 - m) * student``, in [0, 1). In the first updates t it is at most
            (1 + t) / (10 + t), or a short training would be taught by its first weights to the end.
        temperature: of the transport, in cosines.
        within: weight of the image-image and text-text cosines in it, >= 0; they cost nothing but presuppose
            features that separate pictures.

    Attributes:
        teacher: a copy of the student in evaluation mode, without gradient.
    """

    def __init__(
        self,
        student: PairModel,
        alpha: float = 0.5,
        momentum: float = 0.999,
        temperature: float = 0.15,
        within: float = 1.0,
    ) -> None:
        super().__init__()
        check_alpha(alpha)
        if not (0 <= momentum < 1 and temperature > 0 and within >= 0):
            got = f"{momentum}, {temperature} and {within}"
            expected = "momentum in [0, 1), temperature > 0 and within >= 0"
            raise UsageError(expected=expected, got=got, fix="change them", where="distillation")
        self.alpha, self.momentum, self.temperature, self.within = alpha, momentum, temperature, within
        self.teacher = copy.deepcopy(cast(nn.Module, student)).requires_grad_(False).eval()
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._taught: tuple[Tensor, Tensor] | None = None
        self._floor = math.nan

    def train(self, mode: bool = True) -> SelfDistillation:
        """Switch the student to training; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def prepare(self, batch: PairBatch, world: World = SingleProcess(), chunk: int | None = None) -> None:  # noqa: B008
        """Run the teacher over this process's part of the next batch and gather the features of all processes."""
        teacher = cast(PairModel, self.teacher)
        images = _features(teacher.encode_image, batch.images, chunk)
        texts = _features(teacher.encode_text, batch.tokens, chunk)
        self._taught = world.gather(images), world.gather(texts)

    def forward(self, images: Tensor, texts: Tensor, log_scale: Tensor, caption_ids: Tensor | None) -> Tensor:
        """Features (n, d) of the student, not normalised, of the batch that was prepared -> scalar loss."""
        logits = log_scale.exp() * normalise(images) @ normalise(texts).T
        targets = self.targets(caption_ids)
        self._floor = distillation_floor(targets, self.alpha, caption_ids)
        return distillation_loss(logits, targets, self.alpha, caption_ids)

    def floor(self) -> float:
        """A bound under the last loss, in nats; NaN before the first."""
        return self._floor

    @torch.no_grad()
    def targets(self, caption_ids: Tensor | None = None) -> SoftTargets:
        """The teacher's targets for the batch that was prepared.

        Raises:
            UsageError: no batch was.
        """
        if self._taught is None:
            fix = "call prepare(batch) first"
            raise UsageError(expected="a batch that the teacher has seen", got="none", fix=fix, where="distillation")
        return transport_targets(*self._taught, self.temperature, self.within, caption_ids)

    @torch.no_grad()
    def after_step(self, student: PairModel) -> None:
        """Move the teacher towards the student's new weights and forget the batch."""
        self._taught = None
        momentum = min(self.momentum, (1 + int(self.updates)) / (10 + int(self.updates)))
        live = cast(nn.Module, student)
        mean: list[Tensor] = list(self.teacher.parameters())
        torch._foreach_lerp_(mean, list(live.parameters()), 1 - momentum)
        for kept, new in zip(self.teacher.buffers(), live.buffers(), strict=True):  # batch statistics are means already
            kept.copy_(new)
        self.updates += 1


def _features(encode: Callable[[Tensor], Tensor], inputs: Tensor, chunk: int | None) -> Tensor:
    """(n, d) in parts of ``chunk`` rows; n may be 0."""
    if len(inputs) == 0:  # the width of the features is known only by making one
        return encode(inputs.new_zeros((1, *inputs.shape[1:])))[:0]
    return torch.cat([encode(part) for part in torch.split(inputs, chunk or len(inputs))])
