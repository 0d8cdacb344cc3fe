"""CLAP: a linear probe that begins at the texts and is held near those that know their class already.

Julio Silva-Rodriguez, Sina Hajimiri, Ismail Ben Ayed, Jose Dolz, "A Closer Look at the Few-Shot Adaptation of Large
Vision-Language Models", 2024; settings and multipliers from the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_fewshot.types import FloatArray
from experiments.peers.peer import Peer
from experiments.peers.training import MOMENTUM, train

RATE, BATCH = 0.1, 256


class ClapProbe(Peer):
    """logits_j = s cos(q, w_j); loss = cross-entropy + mean_j l_j |w_j - t_j|^2; the rows w train, from the texts t.

    The texts t are as long as the tower gives them (:meth:`~experiments.peers.peer.Peer.lengthen`), as in the authors'
    code. The multipliers l stay, as in the authors' own command; their outer step is an option of their code.

    Args:
        epochs: passes over the pictures. The authors' are 20 augmented views each.

    Attributes:
        penalties_: (c,) l: the mean probability in [0, 1] that zero-shot gives class j on its own pictures.
    """

    def __init__(
        self,
        texts: Mapping[Any, FloatArray] | None = None,
        epochs: int = 300,
        scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(texts, scale, seed)
        self.epochs = epochs

    def learn(self, unit: Tensor, labels: Tensor, texts: Tensor) -> None:
        """Train the rows."""
        start = self.lengthen(texts)
        rows_ = start.clone().requires_grad_()
        penalties = weigh_penalties(self.scale_ * unit @ texts.T, labels)

        def loss(rows: Tensor) -> Tensor:
            logits = self.scale_ * unit[rows] @ F.normalize(rows_, dim=-1).T
            return F.cross_entropy(logits, labels[rows]) + (penalties * (rows_ - start).square().sum(dim=1)).mean()

        optimizer = torch.optim.SGD([rows_], lr=RATE, momentum=MOMENTUM)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.epochs))
        train(loss, optimizer, schedule, len(unit), epochs=self.epochs, batch=BATCH, seed=self.seed)
        self.coef_ = (self.scale_ * F.normalize(rows_.detach(), dim=-1)).numpy()
        self.penalties_ = penalties.numpy()


def weigh_penalties(logits: Tensor, labels: Tensor) -> Tensor:
    """(c,) mean softmax of (n, c) zero-shot logits at the true class, over each class's own pictures."""
    own = torch.softmax(logits, dim=1).gather(1, labels[:, None])[:, 0]
    counts = torch.bincount(labels, minlength=logits.shape[1])
    return torch.zeros(logits.shape[1], dtype=own.dtype).index_add(0, labels, own) / counts
