"""The head of approach 1: a hidden layer and an angular margin on the class logits."""

from __future__ import annotations

from clip_fewshot.heads.arcface import ArcFaceHead
from clip_fewshot.heads.mlp import MLPHead, default_width


def mlp_arcface(
    in_features: int,
    n_classes: int,
    hidden_features: int | None = None,
    margin: float = 0.5,
    scale: float = 30.0,
) -> MLPHead:
    """``MLPHead`` whose output module is an ``ArcFaceHead``; arguments as there."""
    width = hidden_features or default_width(in_features)
    return MLPHead(in_features, n_classes, width, ArcFaceHead(width, n_classes, margin, scale))
