"""Heads: (features, labels=None) -> logits. Torch is all they need; they work on the features of any encoder.

A head is a module with ``in_features``, ``n_classes``, ``takes_tokens`` (whether it wants (n, l, d) tokens where the
encoder has them) and a forward that returns (n, c) logits, never probabilities. Labels may change what it returns in
training mode alone. Initial weights come from torch's global generator: build inside a seeded block.

``CentredHead`` goes around any of them and makes each better on features that share a large mean.

Each entry of ``HEADS`` is called as ``(in_features, n_classes, **options)``.

Example:
    >>> import clip_fewshot as cf
    >>> list(cf.HEADS)
    ['linear', 'mlp', 'arcface', 'mlp-arcface', 'attention', 'zero-shot']
    >>> cf.HEADS["linear"](in_features=8, n_classes=3).n_classes
    3
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from clip_fewshot.errors import UsageError
from clip_fewshot.heads.arcface import ArcFaceHead as ArcFaceHead
from clip_fewshot.heads.attention import AttentionHead as AttentionHead
from clip_fewshot.heads.centred import CentredHead as CentredHead
from clip_fewshot.heads.linear import LinearHead as LinearHead
from clip_fewshot.heads.mlp import MLPHead as MLPHead
from clip_fewshot.heads.mlp import mlp_arcface as mlp_arcface
from clip_fewshot.heads.zero_shot import BlankZeroShotHead as BlankZeroShotHead
from clip_fewshot.heads.zero_shot import ZeroShotHead as ZeroShotHead
from clip_fewshot.heads.zero_shot import zero_shot_weights as zero_shot_weights

HEADS: dict[str, Callable[..., nn.Module]] = {
    "linear": LinearHead,
    "mlp": MLPHead,
    "arcface": ArcFaceHead,
    "mlp-arcface": mlp_arcface,
    "attention": AttentionHead,
    "zero-shot": BlankZeroShotHead,
}


def build_head(name: str, in_features: int, n_classes: int, **options: Any) -> nn.Module:
    """The head called ``name`` in ``HEADS``."""
    if name not in HEADS:
        got = repr(name)
        raise UsageError(expected=f"a head out of {sorted(HEADS)}", got=got, fix="check the spelling", where="head")
    return HEADS[name](in_features, n_classes, **options)
