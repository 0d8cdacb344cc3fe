"""Cross-entropy of class logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clip_fewshot.config.ranges import require_real
from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import check_class_indices, require_tensor


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Mean of -sum_j q_j ln p_j, with p the softmax of the logits and q the smoothed one-hot target.

    Smoothing as in Christian Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016,
    section 7: q is 1 - s + s/c at the true class and s/c elsewhere.

    The loss cannot fall below the entropy of q, ``cross_entropy_floor(c, s)``: 0 without smoothing.

    Args:
        logits: (n, c), not probabilities.
        labels: (n,) int64 in [0, c). No value is special: torch's -100, which silently drops a row, is an error.
        label_smoothing: s in [0, 1).
        class_weights: (c,) positive; a sample counts as its class weighs, smoothing is left alone. (torch weighs the
            smoothed classes one by one, which makes the floor depend on the weights.)

    Returns:
        scalar, float32 or better.

    Example:
        >>> import torch
        >>> import clip_fewshot as cf
        >>> round(cf.cross_entropy(torch.zeros(5, 4), torch.tensor([0, 1, 2, 3, 0])).item(), 4)  # ln 4
        1.3863
    """
    if require_tensor(logits, "logits").ndim != 2 or not logits.numel():
        got, fix = f"{tuple(logits.shape)}", "give one row of logits per picture"
        raise UsageError(expected="logits (n, c), n >= 1", got=got, fix=fix, where="logits")
    labels = check_class_indices(labels, *logits.shape)
    _check_smoothing(label_smoothing)
    log_p = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
    true_log_p = log_p.gather(1, labels[:, None]).squeeze(1)
    losses = -(1 - label_smoothing) * true_log_p - label_smoothing * log_p.mean(1)
    if class_weights is None:
        return losses.mean()
    if require_tensor(class_weights, "class_weights").shape != logits.shape[1:]:
        got, fix = f"{tuple(class_weights.shape)}", "give one weight per class"
        raise UsageError(expected=f"class_weights ({logits.shape[1]},)", got=got, fix=fix, where="class_weights")
    weights = class_weights.to(losses)[labels]
    return (weights * losses).sum() / weights.sum()


def cross_entropy_floor(n_classes: int, label_smoothing: float = 0.0) -> float:
    """The entropy of the smoothed target, in nats: what the loss of a perfect classifier is."""
    _check_smoothing(label_smoothing)
    other = label_smoothing / n_classes
    true = 1 - label_smoothing + other
    return -sum(count * q * math.log(q) for count, q in ((1, true), (n_classes - 1, other)) if q > 0)


def _check_smoothing(label_smoothing: float) -> None:
    require_real(label_smoothing, "label_smoothing", "[0, 1)", "label_smoothing", "0.1 is usual")
