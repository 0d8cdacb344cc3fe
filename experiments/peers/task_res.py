"""TaskRes: a trained residual on the texts.

Tao Yu, Zhihe Lu, Xin Jin, Zhibo Chen, Xinchao Wang, "Task Residual for Tuning Vision-Language Models", 2023;
settings from the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_fewshot.types import FloatArray
from experiments.peers.peer import Peer
from experiments.peers.training import WEIGHT_DECAY, count_epochs, train

RATE, BATCH = 2e-3, 256
EPOCHS = {1: 100, 8: 200}  # from so many shots on


class TaskResProbe(Peer):
    """logits_j = s cos(q, t_j + alpha r_j); the residuals r train, from 0: it begins at zero-shot.

    The texts t are as long as the tower gives them (:meth:`~experiments.peers.peer.Peer.lengthen`), as in the authors'
    code: with unit texts the same rate leaves nothing of them.

    Args:
        alpha: weight of the residuals. The paper's, which has 1 for Flowers102 alone.
        epochs: passes over the pictures. None, as published: 100 below 8 shots, 200 from there on.
    """

    def __init__(
        self,
        texts: Mapping[Any, FloatArray] | None = None,
        alpha: float = 0.5,
        epochs: int | None = None,
        scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(texts, scale, seed)
        self.alpha, self.epochs = alpha, epochs

    def learn(self, unit: Tensor, labels: Tensor, texts: Tensor) -> None:
        """Train the residuals."""
        start = self.lengthen(texts)
        residuals = torch.zeros_like(texts, requires_grad=True)

        def weights() -> Tensor:
            return self.scale_ * F.normalize(start + self.alpha * residuals, dim=-1)

        def loss(rows: Tensor) -> Tensor:
            return F.cross_entropy(unit[rows] @ weights().T, labels[rows])

        epochs = count_epochs(labels, EPOCHS) if self.epochs is None else self.epochs
        optimizer = torch.optim.Adam([residuals], lr=RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, epochs))
        train(loss, optimizer, schedule, len(unit), epochs=epochs, batch=BATCH, seed=self.seed)
        self.coef_ = weights().detach().numpy()
