"""A small two-tower model in any precision, and batches for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.data.pairs.batch import PairBatch

CONFIG = CLIPConfig(16, 16, 2, 32, 1, 8, 32, 1, 1, context_length=8, vocab_size=20)
RESNET = CLIPConfig(16, 32, (1, 1, 1, 1), 8, 4, None, 32, 1, 1, context_length=8, vocab_size=20)


class Double(nn.Module):
    """A backbone's towers in float64, which a Backbone rounds to float32 on its way out; with dropout on request."""

    def __init__(self, config: CLIPConfig = CONFIG, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        backbone = build_backbone(config, seed).double()
        self.visual, self.text, self.logit_scale = backbone.visual, backbone.text, backbone.logit_scale
        self.dropout = nn.Dropout(dropout)

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    def encode_image(self, images: Tensor) -> Tensor:
        features: Tensor = self.dropout(self.visual(images))
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.dropout(self.text(tokens))
        return features


def batch(pairs: int, seed: int = 0, size: int = 16, dtype: torch.dtype = torch.float64) -> PairBatch:
    """Noise with one-word captions of four words."""
    draws = torch.Generator().manual_seed(seed)
    ids = torch.arange(pairs) % 4
    tokens = torch.stack([torch.tensor([17, int(i) + 1, 19, 0]) for i in ids]) if pairs else torch.zeros(0, 4).long()
    return PairBatch(torch.randn(pairs, 3, size, size, generator=draws, dtype=dtype), tokens, ids)


def symmetric(images: Tensor, texts: Tensor, log_scale: Tensor, ids: Tensor | None) -> Tensor:
    """CLIP's loss, written out in the precision of the features."""
    logits = log_scale.exp() * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    ids = torch.arange(len(images)) if ids is None else ids
    same = (ids[:, None] == ids).to(logits)
    target = same / same.sum(1, keepdim=True)
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    return -((target * rows).sum(1).mean() + (target * columns).sum(0).mean()) / 2


def patterns(batches: int, seed: int = 1, ids: bool = True, size: int = 16) -> list[PairBatch]:
    """Eight noisy pictures of four patterns a batch; pictures of a pattern share its one-word caption."""
    draws = torch.Generator().manual_seed(0)
    shapes = torch.randn(4, 3, size, size, generator=draws)
    draws.manual_seed(seed)
    labels = torch.arange(8) % 4
    tokens = torch.stack([torch.tensor([17, int(label) + 1, 19, 0]) for label in labels])
    return [
        PairBatch(
            shapes[labels] + 0.5 * torch.randn(8, 3, size, size, generator=draws), tokens, labels if ids else None
        )
        for _ in range(batches)
    ]
