"""Attention-pooling head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_fewshot.config.ranges import require_sizes
from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import require_width, scale_rows
from clip_fewshot.heads.linear import LinearHead


class AttentionHead(nn.Module):
    """(n, l, d) tokens -> multi-head attention with one learned query -> (n, c) logits.

    Attention as in Ashish Vaswani et al., "Attention Is All You Need", 2017, eq. 1, pooled by a learned query as in
    Juho Lee et al., "Set Transformer", 2019 (PMA, one seed). The query is a parameter, so it needs no projection; keys
    need no bias, which a softmax over tokens would cancel; the usual output projection is folded into the classifier.
    The order of the tokens plays no part: the encoder has put positions into them.

    Args:
        in_features: d, the width of a token (of a ViT: the block width, not the embedding's).
        n_classes: c.
        n_heads: divisor of d; default the largest divisor that leaves at least 64 features per head.
    """

    takes_tokens = True

    def __init__(self, in_features: int, n_classes: int, n_heads: int | None = None) -> None:
        super().__init__()
        require_sizes(in_features=in_features, n_classes=n_classes, n_heads=n_heads or 1)
        count = _default_heads(in_features) if n_heads is None else n_heads
        if count < 1 or in_features % count:
            fix = "choose a divisor"
            raise UsageError(expected=f"n_heads that divides {in_features}", got=f"{count}", fix=fix, where="n_heads")
        self.in_features, self.n_classes, self.n_heads = in_features, n_classes, count
        self.query = nn.Parameter(torch.randn(count, 1, in_features // count))
        self.key = nn.Linear(in_features, in_features, bias=False)
        self.value = nn.Linear(in_features, in_features)
        self.classifier = LinearHead(in_features, n_classes)

    def forward(self, features: Tensor, labels: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """(n, l, d) tokens, or (n, d) features as one token each -> (n, c). ``labels`` change nothing.

        Args:
            visible: (n, l) bool, the tokens that are attended to, at least one in each row; None: all.
        """
        require_width(features, self.in_features)
        tokens = features.unsqueeze(1) if features.ndim == 2 else features
        tokens = scale_rows(tokens, self.key.weight.dtype)
        keys, values = self._split(self.key(tokens)), self._split(self.value(tokens))
        query = self.query.to(keys.dtype).expand(tokens.shape[0], -1, -1, -1)  # (n, heads, 1, d/heads)
        mask = None if visible is None else visible[:, None, None]
        pooled = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask).flatten(1)  # (n, d)
        logits: Tensor = self.classifier(pooled)
        return logits

    def _split(self, tokens: Tensor) -> Tensor:
        """(n, l, d) -> (n, heads, l, d/heads)."""
        return tokens.reshape(*tokens.shape[:2], self.n_heads, -1).transpose(1, 2)


def _default_heads(width: int) -> int:
    return max(h for h in range(1, max(1, width // 64) + 1) if width % h == 0)
