"""What the shipped model descends: captions that are true of several pictures, and a classifier that helps at first."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.data.pairs.batch import PairBatch
from clip_fewshot.errors import UsageError
from clip_fewshot.heads.linear import LinearHead
from clip_fewshot.losses.cross_entropy import cross_entropy
from clip_fewshot.losses.matched import matched_cross_entropy, matched_floor
from clip_fewshot.runtime.rng import seed_torch


@dataclass(frozen=True)
class GlyphBatch(PairBatch):
    """Pictures and captions, k of them, more or fewer than the b pictures.

    Attributes:
        matches: (b, k) bool, [i, j]: caption j is true of picture i.
        labels: (b,) class of each picture.
    """

    matches: Tensor = field(kw_only=True)
    labels: Tensor = field(kw_only=True)


class Guided(nn.Module):
    """Contrastive loss of matched captions, plus at first the cross-entropy of a linear classifier on image features.

    The text tower starts out giving all captions nearly the same feature, which teaches the image tower little; a
    classifier teaches it from the first step. It is thrown away. For one process.

    Args:
        in_features: width of the common space.
        n_classes: of the labels.
        steps: of the whole training.
        weight: of the classifier's loss at the start; it falls to 0 at ``until``.
        until: share of the steps after which training is contrastive alone.
        seed: of the classifier's first weights.
    """

    def __init__(
        self, in_features: int, n_classes: int, steps: int, weight: float = 2.0, until: float = 0.6, seed: int = 0
    ) -> None:
        super().__init__()
        with seed_torch(seed, "classifier"):
            self.classifier = LinearHead(in_features, n_classes)
        self.weight, self.lasts = weight, max(1.0, until * steps)
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._batch: GlyphBatch | None = None

    def prepare(self, batch: PairBatch, world: World, chunk: int | None) -> None:
        """Remember what is true in the next batch."""
        if not isinstance(batch, GlyphBatch) or world.size > 1:
            raise UsageError(
                expected="glyphs on one process",
                got="other batches or more processes",
                fix="train on pairs",
                where="batch",
            )
        self._batch = batch

    def floor(self) -> float:
        """Least value of the loss: the entropy of its targets."""
        return matched_floor(self._seen().matches)

    def forward(self, images: Tensor, texts: Tensor, log_scale: Tensor, caption_ids: Tensor | None) -> Tensor:
        """The contrastive loss, and the classifier's share of it."""
        batch = self._seen()
        logits = log_scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T  # (b, k)
        contrast = matched_cross_entropy(logits, batch.matches.to(logits.device))
        share = self.weight * max(0.0, 1 - int(self.step) / self.lasts)
        if share == 0:
            return contrast
        return contrast + share * cross_entropy(self.classifier(images), batch.labels.to(logits.device))

    def after_step(self, model: object) -> None:
        """One step less to go."""
        self.step += 1

    def _seen(self) -> GlyphBatch:
        if self._batch is None:
            raise UsageError(
                expected="a batch that was prepared", got="none", fix="call prepare(batch) first", where="Guided"
            )
        return self._batch
