"""How the learning rate rises and falls over a training."""

from __future__ import annotations

import math


def warmup_cosine_factor(step: int, total: int, warmup: float) -> float:
    """Factor on the peak rate at ``step`` of ``total``: linear over the first ``warmup`` share, then cosine to 0."""
    rise = max(1, round(total * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
