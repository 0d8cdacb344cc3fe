"""Two-layer head."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_fewshot.config.ranges import require_sizes
from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import require_width, scale_rows
from clip_fewshot.heads.arcface import ArcFaceHead
from clip_fewshot.heads.linear import LinearHead


class MLPHead(nn.Module):
    """(n, d) features -> hidden layer with GELU -> output module -> (n, c) logits.

    Logits, not probabilities: a softmax before a cross-entropy, which takes its own, bounds the loss from below by
    ln(1 + (c - 1)/e), 1.274 for 8 classes, and flattens the gradient on the way there.

    The output module is an argument so that the same hidden layer serves every classifier: with an ``ArcFaceHead``
    this is the mlp-arcface head. Both output modules look at the direction of the hidden features only.

    Args:
        in_features: d.
        n_classes: c.
        hidden_features: width of the hidden layer; default the classifier's, else d, but 64 at the least.
        classifier: head on (n, hidden) with ``in_features`` and ``n_classes``; default LinearHead.

    Example:
        >>> import torch
        >>> import clip_fewshot as cf
        >>> head = cf.MLPHead(in_features=8, n_classes=3, classifier=cf.ArcFaceHead(64, 3))
        >>> head(torch.ones(4, 8)).shape
        torch.Size([4, 3])
    """

    takes_tokens = False

    def __init__(
        self, in_features: int, n_classes: int, hidden_features: int | None = None, classifier: nn.Module | None = None
    ) -> None:
        super().__init__()
        require_sizes(in_features=in_features, n_classes=n_classes, hidden_features=hidden_features or 1)
        output: Any = classifier or LinearHead(hidden_features or default_width(in_features), n_classes)
        width = hidden_features or output.in_features
        if output.in_features != width or output.n_classes != n_classes:
            got = f"{output.in_features} -> {output.n_classes}"
            fix = "build it with these sizes"
            raise UsageError(expected=f"a classifier {width} -> {n_classes}", got=got, fix=fix, where="classifier")
        self.in_features, self.n_classes, self.hidden_features = in_features, n_classes, width
        self.hidden = nn.Linear(in_features, width)
        self.classifier = output

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """(n, d), and in training (n,) labels for a classifier that has a margin -> (n, c)."""
        logits: Tensor = self.classifier(self.embed(features), labels)
        return logits

    def embed(self, features: Tensor) -> Tensor:
        """(n, d) -> (n, hidden)."""
        require_width(features, self.in_features)
        return F.gelu(self.hidden(scale_rows(features, self.hidden.weight.dtype)))

    @torch.no_grad()
    def init_from_examples(self, features: Tensor, labels: Tensor) -> None:
        """Start as the nearest class mean among the hidden features of (n, d) examples with (n,) labels.

        For an output module that can be started from class directions; a class without examples gets the mean of all.
        """
        hidden = self.embed(features)
        overall = hidden.mean(0)
        rows = [hidden[labels == c] for c in range(self.n_classes)]
        self.classifier.init_from(torch.stack([r.mean(0) - overall if len(r) else overall for r in rows]))


def default_width(in_features: int) -> int:
    """Default width of the hidden layer: as wide as the features, at least 64, because a few units learn nothing."""
    return max(in_features, 64)


def mlp_arcface(
    in_features: int, n_classes: int, hidden_features: int | None = None, margin: float = 0.5, scale: float = 30.0
) -> MLPHead:
    """``MLPHead`` whose output module is an ``ArcFaceHead``; arguments as there."""
    width = hidden_features or default_width(in_features)
    return MLPHead(in_features, n_classes, width, ArcFaceHead(width, n_classes, margin, scale))
