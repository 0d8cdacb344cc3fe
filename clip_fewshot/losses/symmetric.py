"""CLIP's two-direction loss over image-caption pairs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import require_tensor


def symmetric_cross_entropy(logits_per_image: Tensor, caption_ids: Tensor | None = None) -> Tensor:
    """Mean of the cross-entropies image -> caption (rows) and caption -> image (columns).

    Alec Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, figure 3.
    (Yisen Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", 2019, gave the same name to
    another loss: cross-entropy plus its reverse. This is not that one.)

    CLIP takes every other pair of the batch as wrong. With few classes captions repeat, and a repeated caption is not
    wrong: with ``caption_ids`` the target of a row is shared equally by all pairs of the same id.

    The loss cannot fall below the mean entropy of its targets, ``symmetric_floor``: the mean over pairs of ln(copies of
    its caption), 0 when all are distinct, ln 5 with 5 of each. The excess over that floor is the number that goes to 0
    when training is done. Equal captions that also have equal columns give identity targets the same gradient and the
    same bound of ln 5, only unannounced; where the columns can differ (ids coarser than the text, such as the class;
    dropout in the text tower) identity targets push true pairs away from each other and shared targets do not.

    For an angular margin, pass the logits of ``margin_logits`` with ``match_captions(caption_ids)`` as the matched
    pairs.

    Args:
        logits_per_image: (n, n) scaled similarities, image i in row i, caption j in column j, pair i on the diagonal.
        caption_ids: (n,) integers, equal for equal captions; None: each pair stands alone (identity targets).

    Returns:
        scalar, float32 or better.

    Example:
        >>> import torch
        >>> import clip_fewshot as cf
        >>> logits = 100 * torch.eye(3)
        >>> round(cf.symmetric_cross_entropy(logits).item(), 4)
        0.0
    """
    shape = tuple(require_tensor(logits_per_image, "logits").shape)
    n = shape[0] if shape else 0
    ids = (n,) if caption_ids is None else tuple(require_tensor(caption_ids, "caption_ids").shape)
    if not n or shape != (n, n) or ids != (n,):
        expected, fix = "logits (n, n) and caption_ids (n,), n >= 1", "give one caption per image"
        raise UsageError(expected=expected, got=f"{shape} and {ids}", fix=fix)
    logits = logits_per_image.to(torch.promote_types(logits_per_image.dtype, torch.float32))
    if caption_ids is None:
        target = torch.arange(n, device=logits.device)
    else:
        # Equality is symmetric, so the same matrix, its rows summing to 1, is the target of both directions.
        same = match_captions(caption_ids).to(logits)
        target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def match_captions(caption_ids: Tensor) -> Tensor:
    """(n,) ids -> (n, n) bool: which image-caption pairs belong together."""
    ids = require_tensor(caption_ids, "caption_ids")
    return ids[:, None] == ids[None, :]


def symmetric_floor(caption_ids: Tensor) -> float:
    """Least value, in nats, of ``symmetric_cross_entropy`` with these (n,) ids: the mean of ln(copies)."""
    if not require_tensor(caption_ids, "caption_ids").numel():
        raise UsageError(expected="caption_ids (n,), n >= 1", got="none", fix="give one per pair", where="caption_ids")
    copies = torch.unique(caption_ids, return_counts=True)[1].double()
    return float((copies * copies.log()).sum() / len(caption_ids))
