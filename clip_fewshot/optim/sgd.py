"""Gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clip_fewshot.optim.adamw import Optimizer, ParameterGroup

MOMENTUM = 0.9


class SGD(Optimizer):
    """v <- momentum v + g + decay w, w <- w - rate v, as ``torch.optim.SGD`` does it.

    Polyak's heavy ball as in Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
    deep learning", 2013, eq. 1 and 2, with the rate outside the velocity, so that a schedule acts at once.

    Args:
        groups: from ``parameter_groups`` or ``named_groups``; their decay joins the gradient, it is not decoupled.
        clip_norm: largest norm of the whole gradient, or None.
        momentum: in [0, 1).
    """

    def __init__(
        self, groups: Sequence[ParameterGroup], clip_norm: float | None = None, *, momentum: float = MOMENTUM
    ) -> None:
        super().__init__(groups, clip_norm, torch.float32)
        self.momentum = momentum
        for group in groups:
            group.second = []  # the velocity is all there is to remember

    @torch.no_grad()
    def step(self, factor: float, norm: Tensor | None = None) -> None:
        """One update of every parameter that has a gradient; ``norm``: of the whole gradient, if known."""
        divisor = self._divisor(norm)
        for group in self.groups:
            paired = zip(group.parameters, group.first, strict=True)
            reached = [(p, p.grad, velocity) for p, velocity in paired if p.grad is not None]
            if reached:
                parameters, gradients, velocities = map(list, zip(*reached, strict=True))
                if divisor is not None:
                    gradients = list(torch._foreach_div(gradients, divisor))
                torch._foreach_mul_(velocities, self.momentum)
                torch._foreach_add_(velocities, gradients)
                torch._foreach_add_(velocities, parameters, alpha=group.weight_decay)
                torch._foreach_add_(parameters, velocities, alpha=-group.peak_lr * factor)
        self.taken += 1
