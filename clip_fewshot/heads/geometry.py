"""What happens to features before the weights of a head meet them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_fewshot.errors import UsageError


def require_width(features: Tensor, in_features: int) -> None:
    """Refuse features whose last axis is not the one the head was built for."""
    if features.ndim < 2 or features.shape[-1] != in_features:
        fix = "build the head with the width of the features, one row per sample"
        raise UsageError(f"features (n, {in_features})", f"{tuple(features.shape)}", fix, "features")


def rms_rows(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of root mean square 1 (length sqrt(d)), in ``dtype``; a zero row stays zero.

    Encoders differ by a factor of ten in the length of their features. Without this, one learning rate would mean
    another thing for each of them, and a search range chosen on one would be wrong on the next. sqrt(d) instead of
    length 1 because torch's initialisation expects inputs of variance 1.
    """
    return F.normalize(features.to(dtype), dim=-1) * math.sqrt(features.shape[-1])


def cosines(features: Tensor, directions: Tensor) -> Tensor:
    """(n, c) cosines of (n, d) features with (c, d) class directions, in float32 or better.

    Autocast is off inside: at a scale of 100 a half-precision cosine (steps of 0.0005 near 1) is a logit error of 0.05.
    """
    with torch.autocast(features.device.type, enabled=False):
        precise = torch.promote_types(features.dtype, torch.float32)
        return F.linear(F.normalize(features.to(precise), dim=-1), F.normalize(directions.to(precise), dim=-1))


def checked_prototypes(prototypes: Tensor, like: Tensor) -> Tensor:
    """Unit rows of (c, d) ``prototypes``, with the shape, dtype and device of ``like``."""
    if prototypes.shape != like.shape:
        fix = "give one row per class, as wide as the features"
        raise UsageError(f"prototypes {tuple(like.shape)}", f"{tuple(prototypes.shape)}", fix, "prototypes")
    return F.normalize(prototypes.detach().double(), dim=-1).to(like)
