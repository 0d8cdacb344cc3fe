"""Rows of unit length, and the additive angular margin on cosines.

The margin is one formula for the ArcFace head and for matched image-caption pairs. It stands below heads and losses
because both need it and neither may import the other.

Paper: Jiankang Deng, Jia Guo, Niannan Xue, Stefanos Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep
Face Recognition", 2019, eq. 3.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_fewshot.config.ranges import require_real
from clip_fewshot.errors import UsageError
from clip_fewshot.types import FloatArray

SHORTEST = 1e-12  # rows below have no direction, as of torch's F.normalize


def unit_rows(rows: FloatArray) -> FloatArray:
    """(..., d) rows divided by their length; a row of zeros, which has no direction, stays one."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1.0))


def check_margin(margin: float) -> None:
    """Refuse a margin outside [0, pi/2] radians; above pi/2 the continuation below would no longer be monotone."""
    fix = "give radians: 0.5 rad is 28.6 degrees"
    require_real(margin, "an angular margin in radians", f"[0, {math.pi / 2}]", "margin", fix)


def angular_margin(cosines: Tensor, margin: float) -> Tensor:
    """cos(theta + margin) for cos(theta), strictly decreasing in theta over the whole of [0, pi].

    cos(theta + m) turns upward again once theta + m passes pi. There, for theta > pi - m, the value is
    cos(theta) - m sin(m): still decreasing, with a step down of cos(m) + m sin(m) - 1 (0.117 at m = 0.5) at the seam.

    The sum formula cos(theta)cos(m) - sin(theta)sin(m) is used instead of acos: acos has an infinite derivative at
    +-1, and clamping the cosine away from +-1, the usual cure, moves every value near it. Here values are exact on
    the whole range and, where sin(theta) is 0, its derivative is taken as 0: the true gradient with respect to a
    feature is bounded there and only its direction is undefined.

    Args:
        cosines: any shape, floating; values that rounding left outside [-1, 1] are fine.
        margin: radians in [0, pi/2]; 0 returns the cosines themselves.
    """
    check_margin(margin)
    sine_squared = (1 - cosines) * (1 + cosines)
    positive = sine_squared > 0  # rounding can leave a cosine outside [-1, 1]
    sine = torch.where(positive, sine_squared, 1.0).sqrt() * positive
    shifted = cosines * math.cos(margin) - sine * math.sin(margin)
    continued = cosines - margin * math.sin(margin)
    return torch.where(cosines >= -math.cos(margin), shifted, continued)


def margin_logits(cosines: Tensor, matched: Tensor, margin: float, scale: float | Tensor) -> Tensor:
    """Logits ``scale * cosines`` with the angular margin on the matched entries and on no other.

    The result depends on ``matched``, that is on the labels: it belongs into a training loss and nowhere else.

    Args:
        cosines: (n, m), before any scaling.
        matched: (n, m) bool: the true class of each row, or the image-caption pairs that belong together.
        margin: radians in [0, pi/2].
        scale: positive; a 0-d tensor keeps its gradient (CLIP's ``logit_scale.exp()``).
    """
    if matched.shape != cosines.shape:
        fix = "give one flag per cosine"
        got = f"{tuple(matched.shape)}"
        raise UsageError(expected=f"matched of shape {tuple(cosines.shape)}", got=got, fix=fix, where="matched")
    return scale * torch.where(matched, angular_margin(cosines, margin), cosines)


def require_tensor(values: object, where: str) -> Tensor:
    """``values`` if they are a tensor: torch's own errors speak of its internals."""
    if not isinstance(values, Tensor):
        fix = "pass torch.as_tensor(...)"
        raise UsageError(expected="a tensor", got=f"a {type(values).__name__}", fix=fix, where=where)
    return values


def require_width(features: Tensor, in_features: int) -> None:
    """Refuse features whose last axis is not the one the head was built for."""
    if require_tensor(features, "features").ndim < 2 or features.shape[-1] != in_features or features.is_complex():
        fix = "build the head with the width of the features, one row per sample"
        got = f"{tuple(features.shape)}"
        raise UsageError(expected=f"features (n, {in_features})", got=got, fix=fix, where="features")


def check_class_indices(labels: Tensor, n: int, n_classes: int) -> Tensor:
    """(n,) int64, if they are integers in 0..n_classes-1."""
    whole = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.is_complex())
    if not whole or labels.shape != (n,) or labels.dtype == torch.bool:
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else f"a {type(labels).__name__}"
        fix = "give one class index per row"
        raise UsageError(expected=f"integer labels ({n},)", got=got, fix=fix, where="labels")
    wrong = (labels < 0) | (labels >= n_classes)
    if wrong.any():
        got, fix = f"{int(labels[wrong][0])}", "count the classes from 0"
        raise UsageError(expected=f"class indices in 0..{n_classes - 1}", got=got, fix=fix, where="labels")
    return labels.long()


def normalise(rows: Tensor) -> Tensor:
    """(..., d) rows of length 1, in float32 or better; a row without direction, shorter than 1e-12, becomes zero.

    ``F.normalize`` gives such a row a gradient of 1e12, which is infinite in half precision; here it has none. In half
    precision the length itself is 0 or infinite for rows that have a direction.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    short = length <= SHORTEST  # not so of NaN, which must stay one
    return torch.where(short, 0.0, rows) / torch.where(short, 1.0, length)


def scale_rows(features: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of root mean square 1 (length sqrt(d)), in ``dtype``; a zero row stays zero.

    Encoders differ by a factor of ten in the length of their features. Without this, one learning rate would mean
    another thing for each of them, and a search range chosen on one would be wrong on the next. sqrt(d) instead of
    length 1 because torch's initialisation expects inputs of variance 1.
    """
    precise = features.to(torch.promote_types(dtype, torch.float32))
    return (normalise(precise) * math.sqrt(features.shape[-1])).to(dtype)


def cosines(features: Tensor, directions: Tensor) -> Tensor:
    """(n, c) cosines of (n, d) features with (c, d) class directions, in float32 or better.

    Autocast is off inside: at a scale of 100 a half-precision cosine (steps of 0.0005 near 1) is a logit error of 0.05.
    """
    with torch.autocast(features.device.type, enabled=False):
        precise = torch.promote_types(features.dtype, torch.float32)
        return F.linear(normalise(features), normalise(directions.to(precise)))


def check_prototypes(prototypes: Tensor, like: Tensor) -> Tensor:
    """Unit rows of (c, d) ``prototypes``, with the shape, dtype and device of ``like``."""
    if require_tensor(prototypes, "prototypes").shape != like.shape:
        fix = "give one row per class, as wide as the features"
        got = f"{tuple(prototypes.shape)}"
        raise UsageError(expected=f"prototypes {tuple(like.shape)}", got=got, fix=fix, where="prototypes")
    return normalise(prototypes.detach().double()).to(like)
