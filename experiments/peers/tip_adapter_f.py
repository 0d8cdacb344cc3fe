"""Tip-Adapter-F: the pictures of the fit as trained keys of a cache, beside zero-shot.

Renrui Zhang, Wei Zhang, Rongyao Fang, Peng Gao, Kunchang Li, Jifeng Dai, Yu Qiao, Hongsheng Li, "Tip-Adapter:
Training-free Adaption of CLIP for Few-shot Classification", 2022; settings from the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_fewshot.geometry import unit_rows
from clip_fewshot.types import FloatArray
from experiments.peers.peer import Peer
from experiments.peers.training import train

RATE, STEP_FLOOR, BATCH = 1e-3, 1e-4, 256  # of AdamW: learning rate and eps


class TipAdapterFProbe(Peer):
    """logits_j = s q.t_j + alpha * sum over keys x of class j of exp(-beta (1 - q.x)); the keys train.

    Before training it is Tip-Adapter. The authors search alpha and beta on validation pictures and keep the best epoch;
    here they are the best of the paper's ablation, and the last epoch stays. Their keys are means of ten augmented
    views and meet other views in training. Here a picture meets its own key, so that the keys have less to learn.

    Args:
        alpha: weight of the cache, >= 0; 0 is zero-shot.
        beta: sharpness, > 0.
        epochs: passes over the pictures; 0 is Tip-Adapter.

    Attributes:
        keys_: (m, d), those of the fit first. owners_: (m,) their columns.
    """

    def __init__(
        self,
        texts: Mapping[Any, FloatArray] | None = None,
        alpha: float = 1.0,
        beta: float = 5.5,
        epochs: int = 20,
        scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(texts, scale, seed)
        self.alpha, self.beta, self.epochs = alpha, beta, epochs

    def learn(self, unit: Tensor, labels: Tensor, texts: Tensor) -> None:
        """Train the keys."""
        keys = unit.clone().requires_grad_()
        zero_shot, values = self.scale_ * unit @ texts.T, F.one_hot(labels).to(unit)

        def loss(rows: Tensor) -> Tensor:
            near = torch.exp(self.beta * (unit[rows] @ keys.T - 1))
            return F.cross_entropy(zero_shot[rows] + self.alpha * near @ values, labels[rows])

        optimizer = torch.optim.AdamW([keys], lr=RATE, eps=STEP_FLOOR)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.epochs))
        train(loss, optimizer, schedule, len(unit), epochs=self.epochs, batch=BATCH, seed=self.seed)
        self.keys_, self.owners_ = keys.detach().numpy(), labels.numpy()
        self.alpha_, self.beta_ = self.alpha, self.beta

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``."""
        unit = unit_rows(np.asarray(X, np.float64))
        # Class by class: no product may depend on a class that came later.
        keys = [self.keys_[self.owners_ == j] for j in range(len(self.classes_))]
        votes = [np.exp(self.beta_ * (unit @ own.T - 1)).sum(axis=1) for own in keys]
        return np.asarray(super().logits(X) + self.alpha_ * np.stack(votes, axis=1))

    def append(self, unit: FloatArray, text: FloatArray) -> None:
        """Add a class; its pictures become keys as they are."""
        super().append(unit, text)
        self.keys_ = np.vstack([self.keys_, unit])
        self.owners_ = np.append(self.owners_, np.full(len(unit), len(self.classes_) - 1))
