"""Optimiser groups and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn


def parameter_groups(modules: Iterable[tuple[nn.Module, float]], weight_decay: float) -> list[dict[str, object]]:
    """AdamW groups from (module, learning rate): weight decay on matrices only.

    Norms, biases, class embeddings and scales (fewer than two dimensions) get none: decay would pull them away
    from values that carry no redundancy (Radford et al., "Learning Transferable Visual Models From Natural
    Language Supervision", 2021, section 2.5: decay on "all weights that are not gains or biases").
    """
    groups: list[dict[str, object]] = []
    for module, lr in modules:
        trained = [p for p in module.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim >= 2]
        vectors = [p for p in trained if p.ndim < 2]
        groups += [{"params": matrices, "lr": lr, "peak_lr": lr, "weight_decay": weight_decay}] if matrices else []
        groups += [{"params": vectors, "lr": lr, "peak_lr": lr, "weight_decay": 0.0}] if vectors else []
    return groups


def build_adamw(groups: list[dict[str, object]]) -> torch.optim.AdamW:
    """Fused AdamW (on CPUs four times as fast as the loop; same arithmetic) with CLIP's betas (.9, .98)."""
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, fused=True)


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """Factor on the peak rate at ``step`` of ``total``: linear over the first ``warmup`` share, then cosine to 0."""
    rise = max(1, round(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale each group's peak learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
