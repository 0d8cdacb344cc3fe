"""Additive angular margin head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_fewshot.config.ranges import require_real, require_sizes
from clip_fewshot.geometry import (
    check_class_indices,
    check_margin,
    check_prototypes,
    cosines,
    margin_logits,
    require_width,
)


class ArcFaceHead(nn.Module):
    """(n, d) features -> (n, c) scaled cosines; in training the true class must win by ``margin``.

    Jiankang Deng, Jia Guo, Niannan Xue, Stefanos Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face
    Recognition", 2019, eq. 3: the logit of the true class is scale * cos(theta + margin), all others
    scale * cos(theta). Follow with a plain cross-entropy.

    The margin depends on the label, so it must never reach a prediction: it is applied in training mode, on the true
    logit, when labels are given. In ``eval()`` labels are ignored, so a validation loop that passes them leaks nothing.

    A probability p of the true class is within reach only if scale >= (c - 1)/c * ln((c - 1) p / (1 - p)) (Hao Wang
    et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", 2018, eq. 6): 7.2 for 10 classes and
    p = 0.997, 16.1 for 1,000 classes and p = 0.9999.

    Args:
        in_features: d.
        n_classes: c.
        margin: radians in [0, pi/2]; 0.5 is 28.6 degrees. 0 makes a scaled cosine classifier.
        scale: positive, the length given to every feature.

    Example:
        >>> import torch
        >>> import clip_fewshot as cf
        >>> head = cf.ArcFaceHead(in_features=8, n_classes=3, margin=0.5, scale=16.0)
        >>> features, labels = torch.ones(4, 8), torch.tensor([0, 1, 2, 0])
        >>> logits = head(features, labels)  # training: the margin is on
        >>> head.eval()(features).shape
        torch.Size([4, 3])
    """

    takes_tokens = False

    def __init__(self, in_features: int, n_classes: int, margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__()
        check_margin(margin)
        require_real(scale, "scale", "(0, inf)", "scale", "30 suits most data")
        require_sizes(in_features=in_features, n_classes=n_classes)
        self.in_features, self.n_classes, self.margin, self.scale = in_features, n_classes, margin, scale
        # Rows of length about 1: the gradient of a direction goes with 1/length, so the length sets the step.
        self.weight = nn.Parameter(torch.randn(n_classes, in_features) / in_features**0.5)

    def extra_repr(self) -> str:
        """What torch prints between the brackets."""
        return f"{self.in_features} -> {self.n_classes}, margin {self.margin}, scale {self.scale}"

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """(n, d) features, and in training (n,) int64 labels in [0, c) -> (n, c) logits, float32 or better."""
        require_width(features, self.in_features)
        similarity = cosines(features, self.weight)
        if labels is None or not self.training:
            return self.scale * similarity
        labels = check_class_indices(labels, len(features), self.n_classes)
        matched = F.one_hot(labels, self.n_classes).bool()
        return margin_logits(similarity, matched, self.margin, self.scale)

    @torch.no_grad()
    def init_from(self, prototypes: Tensor) -> None:
        """Start with the given (c, d) class directions (zero-shot text weights, class means); see LinearHead."""
        self.weight.copy_(check_prototypes(prototypes, self.weight))
