"""LP++: a linear probe on pictures beside a trained multiple of each text, with step sizes from the data.

Yunshi Huang, Fereshteh Shakeri, Jose Dolz, Malik Boudiaf, Houda Bahig, Ismail Ben Ayed, "LP++: A Surprisingly Strong
Linear Probe for Few-Shot CLIP", 2024; step sizes and where it begins from the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_fewshot.types import FloatArray
from experiments.peers.peer import CLIP_SCALE, Peer
from experiments.peers.training import MOMENTUM, WHOLE, train

TEXT_EVERY = 10  # steps of the rows to one of the multiples
# The multiples begin at so many times the mean cosine of pictures and their texts: 250 of the paper.
AGREEMENT = 250.0 / CLIP_SCALE  # of the scale


class LPPlusPlusProbe(Peer):
    """logits_j = q.(w_j + a_j t_j) + b_j; the loss is convex in w, a and b, and the steps its one regulariser.

    The authors keep the best of 300 steps on validation pictures; here the last one stays. Their code lets the gradient
    of a pile up over all steps before; here it is that of the step, as in the paper. The scale says where a begins.

    Args:
        epochs: steps of gradient descent, each on all pictures.

    Attributes:
        rows_: (c, d) w. alphas_: (c,) a. shots_: mean number of pictures of a class of the fit.
    """

    def __init__(
        self, texts: Mapping[Any, FloatArray] | None = None, epochs: int = 300, scale: float | None = None
    ) -> None:
        super().__init__(texts, scale)
        self.epochs = epochs

    def learn(self, unit: Tensor, labels: Tensor, texts: Tensor) -> None:
        """Train rows, intercepts and multiples of the texts."""
        text_logits, one_hot = unit @ texts.T, F.one_hot(labels).to(unit)
        # As long as the sum of a class's pictures where all have as many, as in the authors' code.
        self.shots_ = len(unit) / len(texts)
        rows = self.shots_ * _means(unit, one_hot)
        intercepts = torch.zeros(len(texts), dtype=unit.dtype)
        own = _means(text_logits, one_hot).diagonal()
        alphas = (AGREEMENT * self.scale_ * own.mean()).repeat(len(texts))
        trained = [tensor.requires_grad_() for tensor in (rows, intercepts, alphas)]

        def loss(chosen: Tensor) -> Tensor:
            logits = unit[chosen] @ rows.T + intercepts + alphas * text_logits[chosen]
            return F.cross_entropy(logits, labels[chosen])

        rate, text_rate = find_rates(unit, text_logits)
        groups = [
            {"params": trained[:2], "lr": rate, "momentum": MOMENTUM},
            {"params": trained[2:], "lr": text_rate},
        ]
        optimizer = torch.optim.SGD(groups)
        turns = [lambda step: 1.0, lambda step: float((step + 1) % TEXT_EVERY == 0)]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, turns)
        train(loss, optimizer, schedule, len(unit), epochs=self.epochs, batch=WHOLE, seed=self.seed)
        self.alphas_, self.intercept_ = alphas.detach().numpy(), intercepts.detach().numpy()
        self.rows_ = rows.detach().numpy()
        self.coef_ = self.rows_ + self.alphas_[:, None] * texts.numpy()

    def append(self, unit: FloatArray, text: FloatArray) -> None:
        """Add a class where it would begin, with the mean multiple of its text; without pictures, the mean row."""
        row = self.shots_ * unit.mean(axis=0) if len(unit) else self.rows_.mean(axis=0)
        alpha = float(self.alphas_.mean())
        self.rows_, self.alphas_ = np.vstack([self.rows_, row]), np.append(self.alphas_, alpha)
        self.coef_ = np.vstack([self.coef_, row + alpha * text])
        self.intercept_ = np.append(self.intercept_, 0.0)


def find_rates(unit: Tensor, text_logits: Tensor) -> tuple[float, float]:
    """Step sizes of rows and multiples: 4 n / (largest eigenvalue of X'X), n / (4 max_j sum_i (x_i t_j)^2)."""
    n, largest = len(unit), float(torch.linalg.matrix_norm(unit, 2)) ** 2
    return 4 * n / largest, n / (4 * float(text_logits.square().sum(dim=0).max()))


def _means(values: Tensor, one_hot: Tensor) -> Tensor:
    """(n, m) values and (n, c) one-hot labels -> (c, m) means of each class."""
    return one_hot.T @ values / one_hot.sum(dim=0)[:, None]
