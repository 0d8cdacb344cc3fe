"""CLIP's two-direction loss where a caption may be true of several pictures, and a picture have several captions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import require_tensor


def matched_cross_entropy(logits_per_image: Tensor, matches: Tensor) -> Tensor:
    """Mean of the cross-entropies image -> caption (rows) and caption -> image (columns), with shared targets.

    Each target is shared equally by all that match.

    ``symmetric_cross_entropy`` is the case where "match" is an equivalence ("same caption"). Here it need not be: "a
    digit" is true of every picture that "a red seven" is true of, and not the other way round, so the rows and the
    columns have targets of their own. The least value is :func:`matched_floor`.

    Args:
        logits_per_image: (n, k) scaled similarities of n images and k captions.
        matches: (n, k) bool, whether the caption is true of the image; no row and no column may be empty.

    Returns:
        scalar, float32 or better.
    """
    require_tensor(matches, "matches")
    if require_tensor(logits_per_image, "logits").ndim != 2 or matches.shape != logits_per_image.shape:
        got = f"{tuple(logits_per_image.shape)} and {tuple(matches.shape)}"
        raise UsageError(expected="logits (n, k) and matches (n, k)", got=got, fix="give one entry per pair")
    _check(matches)
    logits = logits_per_image.to(torch.promote_types(logits_per_image.dtype, torch.float32))
    share = matches.to(logits)
    rows, columns = share / share.sum(1, keepdim=True), share.T / share.T.sum(1, keepdim=True)
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, columns)) / 2


def matched_floor(matches: Tensor) -> float:
    """Least value, in nats, that the loss can take with these (n, k) matches: the mean entropy of its targets."""
    _check(matches)
    return float((matches.sum(1).double().log().mean() + matches.sum(0).double().log().mean()) / 2)


def _check(matches: Tensor) -> None:
    if not (bool(matches.any(1).all()) and bool(matches.any(0).all())):
        got = "an empty row or column"
        raise UsageError(expected="a true caption for each image, an image for each caption", got=got, fix="drop it")
