from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip_fewshot.errors import UsageError
from clip_fewshot.heads import AttentionHead


def with_torch_attention(head: AttentionHead, tokens: Tensor) -> Tensor:
    """The same head with torch's own attention module: identity query and output projections."""
    d = head.in_features
    attention = nn.MultiheadAttention(d, head.n_heads, batch_first=True).to(tokens.dtype)
    eye, zero = torch.eye(d, dtype=tokens.dtype), torch.zeros(d, dtype=tokens.dtype)
    attention.load_state_dict(
        {
            "in_proj_weight": torch.cat([eye, head.key.weight.detach(), head.value.weight.detach()]),
            "in_proj_bias": torch.cat([zero, zero, head.value.bias.detach()]),
            "out_proj.weight": eye,
            "out_proj.bias": zero,
        }
    )
    tokens = F.normalize(tokens, dim=-1) * d**0.5
    query = head.query.detach().reshape(1, 1, d).expand(len(tokens), -1, -1)
    pooled, _ = attention(query, tokens, tokens, need_weights=False)
    return head.classifier(pooled[:, 0])


@pytest.mark.parametrize("n_heads", [1, 2, 4])
def test_equals_torch_multihead_attention(n_heads: int) -> None:
    torch.manual_seed(0)
    head = AttentionHead(8, 3, n_heads).double()
    tokens = torch.randn(5, 6, 8, dtype=torch.float64)
    assert torch.allclose(head(tokens), with_torch_attention(head, tokens), atol=1e-12)


def test_the_order_of_tokens_plays_no_part() -> None:
    head, tokens = AttentionHead(8, 3), torch.randn(5, 6, 8)
    assert torch.allclose(head(tokens.flip(1)), head(tokens), atol=1e-5)


def test_a_feature_is_one_token() -> None:
    head, features = AttentionHead(8, 3), torch.randn(5, 8)
    assert torch.allclose(head(features), head(features[:, None]), atol=1e-6)


@pytest.mark.parametrize(("width", "expected"), [(768, 12), (128, 2), (24, 1), (640, 10), (200, 2), (331, 1)])
def test_default_heads_divide_the_width_and_keep_64_features(width: int, expected: int) -> None:
    assert AttentionHead(width, 2).n_heads == expected


@pytest.mark.parametrize("n_heads", [0, 3, -1])
def test_heads_that_do_not_divide_are_refused(n_heads: int) -> None:
    with pytest.raises(UsageError, match="n_heads"):
        AttentionHead(8, 3, n_heads)
