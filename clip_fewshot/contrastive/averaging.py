"""The mean of the weights along a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningMean:
    """Exponential mean of a module's weights; it forgets the start fast (decay at most (1 + t) / (10 + t) at step t).

    Args:
        decay: per step, in [0, 1); with 0 the mean is the weights, and nothing is kept.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._live = [p for p in module.parameters() if p.requires_grad] if decay > 0 else []
        self._mean = [p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in self._live]
        self._decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step ``step``, the first being 1."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        for mean, live in zip(self._mean, self._live, strict=True):
            mean.lerp_(live.to(mean.dtype), weight)

    @contextmanager
    def swap_in(self) -> Iterator[None]:
        """Run a block with the mean in place of the weights."""
        before = [p.detach().clone() for p in self._live]
        self.install()
        try:
            yield
        finally:
            _fill(self._live, before)

    def install(self) -> None:
        """Replace the weights by the mean."""
        _fill(self._live, self._mean)

    def tensors(self) -> dict[str, Tensor]:
        """The mean, not copied."""
        return {f"mean.{i}": mean for i, mean in enumerate(self._mean)}


@torch.no_grad()
def _fill(targets: list[nn.Parameter] | list[Tensor], values: list[Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)
