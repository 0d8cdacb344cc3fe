"""Losses: (logits, targets) -> scalar. Each states the least value it can take, and a test holds it.

Example:
    >>> import clip_fewshot as cf
    >>> list(cf.LOSSES)
    ['cross-entropy', 'symmetric']
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from clip_fewshot.losses.cross_entropy import cross_entropy as cross_entropy
from clip_fewshot.losses.cross_entropy import cross_entropy_floor as cross_entropy_floor
from clip_fewshot.losses.distillation import SoftTargets as SoftTargets
from clip_fewshot.losses.distillation import distillation_floor as distillation_floor
from clip_fewshot.losses.distillation import distillation_loss as distillation_loss
from clip_fewshot.losses.distillation import sinkhorn as sinkhorn
from clip_fewshot.losses.distillation import transport_targets as transport_targets
from clip_fewshot.losses.matched import matched_cross_entropy as matched_cross_entropy
from clip_fewshot.losses.matched import matched_floor as matched_floor
from clip_fewshot.losses.symmetric import match_captions as match_captions
from clip_fewshot.losses.symmetric import symmetric_cross_entropy as symmetric_cross_entropy
from clip_fewshot.losses.symmetric import symmetric_floor as symmetric_floor

LOSSES: dict[str, Callable[..., Tensor]] = {"cross-entropy": cross_entropy, "symmetric": symmetric_cross_entropy}
