"""CLIP-Adapter: a bottleneck on the picture's feature, mixed with the feature itself.

Peng Gao, Shijie Geng, Renrui Zhang, Teli Ma, Rongyao Fang, Yongfeng Zhang, Hongsheng Li, Yu Qiao, "CLIP-Adapter: Better
Vision-Language Models with Feature Adapters", 2021, the variant with a visual adapter alone, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_fewshot.geometry import unit_rows
from clip_fewshot.runtime.rng import seed_torch_cpu
from clip_fewshot.types import FloatArray
from experiments.peers.peer import CLIP_SCALE, Peer
from experiments.peers.training import MOMENTUM, WEIGHT_DECAY, train

REDUCTION = 4  # width of the features over that of the bottleneck
RATE, BATCH = 2e-3, 32


class ClipAdapterProbe(Peer):
    """q' = ratio * relu(relu(q V) W) + (1 - ratio) * q; logits_j = s cos(q', t_j); V and W train.

    The authors choose the ratio and the rate per set. Here the ratio is that of their code, and the rest is CoOp's
    setting, in whose framework it runs: SGD 2e-3, batches of 32.

    Args:
        ratio: share of the adapter, in [0, 1]; 0 is zero-shot.
        epochs: passes over the pictures.

    Attributes:
        down_: V (d, d / 4). up_: W (d / 4, d). ratio_: the ratio.
    """

    def __init__(
        self,
        texts: Mapping[Any, FloatArray] | None = None,
        ratio: float = 0.2,
        epochs: int = 200,
        scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(texts, scale, seed)
        self.ratio, self.epochs = ratio, epochs

    def learn(self, unit: Tensor, labels: Tensor, texts: Tensor) -> None:
        """Train both layers, from torch's own first weights."""
        width = unit.shape[1]
        with seed_torch_cpu(self.seed, "CLIP-Adapter"):
            layers = [torch.nn.Linear(*size, bias=False) for size in _sizes(width)]
        down, up = (layer.weight.detach().T.to(unit).contiguous().requires_grad_() for layer in layers)

        def loss(rows: Tensor) -> Tensor:
            mixed = _mix(unit[rows], down, up, self.ratio)
            return F.cross_entropy(self.scale_ * mixed @ texts.T, labels[rows])

        optimizer = torch.optim.SGD(
            [down, up], lr=RATE * (CLIP_SCALE / self.scale_) ** 2, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.epochs))
        train(loss, optimizer, schedule, len(unit), epochs=self.epochs, batch=BATCH, seed=self.seed)
        self.down_, self.up_, self.ratio_ = down.detach().numpy(), up.detach().numpy(), self.ratio

    def adapt(self, unit: FloatArray) -> FloatArray:
        """(n, d) unit rows -> (n, d) unit rows behind the adapter."""
        down, up = torch.from_numpy(self.down_), torch.from_numpy(self.up_)
        return unit_rows(_mix(torch.from_numpy(unit), down, up, self.ratio_).numpy())


def _sizes(width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    inner = max(1, width // REDUCTION)
    return (width, inner), (inner, width)


def _mix(unit: Tensor, down: Tensor, up: Tensor, ratio: float) -> Tensor:
    return F.normalize(ratio * F.relu(F.relu(unit @ down) @ up) + (1 - ratio) * unit, dim=-1)
