"""Self-distillation: a teacher's transport between the pictures and the captions of a batch as soft targets.

A batch holds pictures that other captions than their own are partly true of; identity targets call all of those wrong.
Ruizhe Cheng, Bichen Wu, Peizhao Zhang, Peter Vajda, Joseph E. Gonzalez, "Data-Efficient Language-Supervised Zero-Shot
Learning with Self-Distillation", 2021, let the running mean of the model say how true; Bichen Wu, Ruizhe Cheng, Peizhao
Zhang, Peter Vajda, Joseph E. Gonzalez, "Data Efficient Language-Supervised Zero-Shot Recognition with Optimal Transport
Distillation", 2021, let the optimal transport of its similarities.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import normalise, require_tensor
from clip_fewshot.losses.symmetric import match_captions, symmetric_cross_entropy


class SoftTargets(NamedTuple):
    """Targets of both directions: (n, n) each, rows that sum to 1.

    Attributes:
        per_image: how true each caption is of the image in row i.
        per_text: how true the caption in row i is of each image.
    """

    per_image: Tensor
    per_text: Tensor


def sinkhorn(similarities: Tensor, temperature: float = 0.15, tolerance: float = 1e-4, rounds: int = 200) -> Tensor:
    """The plan P that moves equal masses 1/n of the rows to equal masses 1/m of the columns at the best value.

    The value is <P, similarities> + temperature * entropy(P).

    Marco Cuturi, "Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013, algorithm 1, on logarithms:
    at temperature 0.01 the numbers of the original recurrence leave the range of float32. Similarities, not costs: the
    mass goes where they are large. (With their sign turned the smallest entry of each row is the matching pair.)

    Args:
        similarities: (n, m); cosines, or sums of a few of them.
        temperature: > 0, in the unit of the similarities; small ones give nearly a matching, large ones even masses.
        tolerance: largest relative error of a marginal at which it stops.
        rounds: at most this many; each scales all rows and all columns once. Enough for 1e-4 at temperatures of 0.05
            and over in batches; below, or with a handful of rows, rows are exact and columns near.

    Returns:
        (n, m), float32 or better; rows sum to 1/n, columns to 1/m within ``tolerance``.
    """
    if require_tensor(similarities, "sinkhorn").ndim != 2 or 0 in similarities.shape or temperature <= 0:
        got = f"{tuple(similarities.shape)} and {temperature}"
        expected = "similarities (n, m), not empty, and temperature > 0"
        raise UsageError(expected=expected, got=got, fix="change them", where="sinkhorn")
    n, m = similarities.shape
    scores = similarities.to(torch.promote_types(similarities.dtype, torch.float32)) / temperature
    rows = -math.log(n) - scores.logsumexp(1)
    for _ in range(rounds):
        columns = -math.log(m) - (scores + rows[:, None]).logsumexp(0)
        before, rows = rows, -math.log(n) - (scores + columns).logsumexp(1)
        if float((before - rows).expm1().abs().max()) <= tolerance:  # by how much the rows' sums were off
            break
    return (scores + rows[:, None] + columns).exp()


def transport_targets(
    images: Tensor, texts: Tensor, temperature: float = 0.15, within: float = 1.0, caption_ids: Tensor | None = None
) -> SoftTargets:
    """Soft targets from a teacher's features of a batch of pairs.

    The plan of :func:`sinkhorn` on the cosines image-text + ``within`` * (image-image + text-text), as in Wu et al.,
    section 3.2: a caption is true of a picture as far as it, or its own picture, resembles what the picture has. On the
    diagonal the second and third are 1, so that the matching pair has the largest entry unless the teacher is far off.
    Equal captions share their mass equally.

    Args:
        images, texts: (n, d), pair i in row i of both; of any length.
        temperature: of the transport; Wu et al. train with 0.15.
        within: weight of the similarities inside each modality, >= 0.
        caption_ids: (n,) integers, equal for equal captions; None: all differ.
    """
    require_tensor(texts, "texts")
    if require_tensor(images, "images").ndim != 2 or images.shape != texts.shape:
        got = f"{tuple(images.shape)} and {tuple(texts.shape)}"
        fix = "give one caption per image"
        raise UsageError(expected="image and text features (n, d)", got=got, fix=fix, where="distillation")
    images, texts = normalise(images), normalise(texts)
    similarities = images @ texts.T
    if within:
        similarities = similarities + within * (images @ images.T + texts @ texts.T)
    plan = sinkhorn(similarities, temperature)
    if caption_ids is not None:
        plan = plan @ _shared(caption_ids, plan)
    return SoftTargets(plan / plan.sum(1, keepdim=True), plan.T / plan.T.sum(1, keepdim=True))


def distillation_loss(
    logits_per_image: Tensor, targets: SoftTargets, alpha: float = 0.5, caption_ids: Tensor | None = None
) -> Tensor:
    """(1 - alpha) * :func:`symmetric_cross_entropy` + alpha * the cross-entropy to the teacher's targets, both ways.

    Cheng et al., 2021, section 3.2. Its least value is :func:`distillation_floor`.

    Args:
        logits_per_image: (n, n) of the student, image i in row i, caption j in column j.
        targets: of :func:`transport_targets`, without gradient.
        alpha: share of the teacher, in [0, 1].
        caption_ids: (n,) integers, equal for equal captions; None: all differ.

    Returns:
        scalar, float32 or better.
    """
    check_alpha(alpha)
    if require_tensor(logits_per_image, "logits").shape != targets.per_image.shape:
        got = f"{tuple(logits_per_image.shape)} and {tuple(targets.per_image.shape)}"
        fix = "take both from the same batch"
        raise UsageError(expected="logits (n, n) and targets (n, n)", got=got, fix=fix, where="distillation")
    logits = logits_per_image.to(torch.promote_types(logits_per_image.dtype, torch.float32))
    per_image, per_text = (target.to(logits) for target in targets)
    taught = (F.cross_entropy(logits, per_image) + F.cross_entropy(logits.T, per_text)) / 2
    return (1 - alpha) * symmetric_cross_entropy(logits, caption_ids) + alpha * taught


def distillation_floor(targets: SoftTargets, alpha: float = 0.5, caption_ids: Tensor | None = None) -> float:
    """A lower bound of the loss, in nats: the mean entropy of the mixed targets.

    The loss reaches it only where one matrix of logits can meet the targets of both directions.
    """
    check_alpha(alpha)
    ids = torch.arange(len(targets.per_image)) if caption_ids is None else caption_ids
    own = _shared(ids.to(targets.per_image.device), targets.per_image)
    mixed = ((1 - alpha) * own + alpha * target for target in targets)
    return sum(float(-torch.xlogy(target, target).sum(1).mean()) for target in mixed) / 2


def check_alpha(alpha: float) -> None:
    """Refuse a share of the teacher outside [0, 1]."""
    if not 0 <= alpha <= 1:
        raise UsageError(expected="alpha in [0, 1]", got=f"{alpha}", fix="0.5 is the authors'", where="distillation")


def _shared(caption_ids: Tensor, like: Tensor) -> Tensor:
    """(n, n): 1/k where captions are equal, k being how many are."""
    same = match_captions(caption_ids).to(like)
    return same / same.sum(1, keepdim=True)
