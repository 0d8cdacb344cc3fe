"""AdamW in one pass over the weights, its groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

BETAS, EPS = (0.9, 0.98), 1e-6  # Radford et al., 2021, table 18 (ViT)


@dataclass
class Group:
    """Parameters with one peak learning rate and one weight decay, and what AdamW remembers of them."""

    parameters: Sequence[Tensor]
    peak_lr: float
    weight_decay: float
    steps: list[Tensor] = field(init=False)
    first: list[Tensor] = field(init=False)
    second: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.steps = [torch.zeros((), device=p.device) for p in self.parameters]
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]


def parameter_groups(modules: Iterable[tuple[nn.Module, float]], weight_decay: float) -> list[Group]:
    """AdamW groups from (module, peak learning rate): weight decay on matrices only.

    Norms, biases, class embeddings and scales (fewer than two dimensions) get none: decay would pull them away
    from values that carry no redundancy (Radford et al., "Learning Transferable Visual Models From Natural
    Language Supervision", 2021, section 2.5: decay on "all weights that are not gains or biases").
    """
    groups = []
    for module, lr in modules:
        trained = [p for p in module.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim >= 2]
        vectors = [p for p in trained if p.ndim < 2]
        groups += [Group(matrices, lr, weight_decay)] if matrices else []
        groups += [Group(vectors, lr, 0.0)] if vectors else []
    return groups


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, alg. 2).

    The step of a folded last block is as short as the optimiser's pass over its weights, so this is one pass: torch's
    fused kernel, a quarter of the time of the loop over tensors, which also divides the gradient when its norm is
    clipped. ``torch.optim.AdamW(fused=True)`` has the same kernel and lost because making one imports torch's
    compiler, two seconds in every process.

    Args:
        groups: from :func:`parameter_groups`.
        clip_norm: largest norm of the whole gradient, or None.
    """

    def __init__(self, groups: Sequence[Group], clip_norm: float | None = None) -> None:
        self.groups, self.clip_norm = groups, clip_norm

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update at ``factor`` times each group's peak learning rate; parameters without gradient stay."""
        divisor = self._divisor()
        for group in self.groups:
            reached = [(i, p, p.grad) for i, p in enumerate(group.parameters) if p.grad is not None]
            if not reached:
                continue
            places, parameters, gradients = zip(*reached, strict=True)
            steps = [group.steps[i] for i in places]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                parameters,
                gradients,
                [group.first[i] for i in places],
                [group.second[i] for i in places],
                [],
                steps,
                lr=group.peak_lr * factor,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=group.weight_decay,
                eps=EPS,
                amsgrad=False,
                maximize=False,
                grad_scale=divisor,
            )

    def _divisor(self) -> Tensor | None:
        """What the gradient is divided by so that its norm is at most ``clip_norm``."""
        gradients = [p.grad for group in self.groups for p in group.parameters if p.grad is not None]
        if self.clip_norm is None or not gradients:
            return None
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if norm.device.type == "cpu" and float(norm) <= self.clip_norm:  # elsewhere asking would wait for the device
            return None
        return (norm / self.clip_norm).clamp(min=1.0)


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Factor on the peak rate at ``step`` of ``total``: linear over the first ``warmup`` share, then cosine to 0."""
    rise = max(1, round(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
