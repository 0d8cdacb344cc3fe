"""The one loop in which rivals train on features that do not change, with the settings that most of them share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clip_fewshot.errors import DivergedError
from clip_fewshot.runtime.rng import generator

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4  # the defaults of Dassl.pytorch, in which most of the authors' code runs
WHOLE = 1 << 62  # a batch of all pictures


def train(
    loss: Callable[[Tensor], Tensor],
    optimizer: Optimizer,
    schedule: LRScheduler,
    n: int,
    *,
    epochs: int,
    batch: int,
    seed: int,
) -> None:
    """Minimise ``loss`` over shuffled batches; ``schedule`` moves after each epoch.

    The authors' first epoch, at a rate of 1e-5, is left out: it moves nothing.

    Args:
        loss: (b,) rows -> scalar.
        n: pictures. epochs: passes over them. batch: pictures per step. seed: of the order.

    Raises:
        DivergedError: the loss is not finite at the end.
    """
    order = generator(seed, "batches of a rival")
    last = 0.0
    for _ in range(epochs):
        for rows in torch.split(torch.from_numpy(order.permutation(n)), min(batch, n)):
            optimizer.zero_grad()
            value = loss(rows)
            torch.autograd.backward(value)
            optimizer.step()
            last = float(value.detach())
        schedule.step()
    if not math.isfinite(last):
        fix = "lower the scale of the texts"
        raise DivergedError(expected="a finite loss", got=str(last), fix=fix, where="training of a rival")


def count_epochs(labels: Tensor, by_shots: Mapping[int, int]) -> int:
    """The epochs of the largest key that the pictures a class, on average, reach; keys in rising order, from 1."""
    shots = len(labels) / len(torch.bincount(labels))
    return [epochs for least, epochs in by_shots.items() if least <= max(1.0, shots)][-1]
