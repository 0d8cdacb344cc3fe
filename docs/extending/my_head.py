"""A head: the cosine to one direction per class, times a scale that a study searches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_fewshot import Approach, Range


class CosineHead(nn.Module):
    takes_tokens = False  # one vector per picture is enough

    def __init__(self, in_features: int, n_classes: int, scale: float = 16.0) -> None:
        super().__init__()
        self.in_features, self.n_classes, self.scale = in_features, n_classes, scale
        self.directions = nn.Parameter(torch.randn(n_classes, in_features))

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """(n, d) features -> (n, c) logits; ``labels`` are there in training, for a margin on the true class."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.directions, dim=-1))


COSINE = Approach(
    "cosine",
    head=CosineHead,
    loss="cross-entropy",
    space={"unfreeze": Range(0, None), "scale": Range(4.0, 64.0, log=True)},
    centre={"unfreeze": 1, "scale": 16.0, "backbone_lr": 1e-4, "head_lr": 1e-2},
)
