"""Attention with a single query per input, without the keys or values of any token."""

from __future__ import annotations

import torch
from torch import Tensor

from clip_fewshot.errors import UsageError


def one_query_attention(
    query: Tensor,
    tokens: Tensor,
    key: Tensor,
    value: Tensor,
    value_bias: Tensor,
    affine: tuple[Tensor, Tensor] | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    """softmax(q K' / sqrt(e)) V of one query, K and V never formed.

    q . (Wk x_j) = (Wk' q) . x_j and sum_j a_j Wv x_j = Wv sum_j a_j x_j: both matrices move to the side of the one
    query. What is the same in every score cancels (the key bias, and the shift of an affine norm); the value bias and
    that shift pass as they are, because the weights sum to 1. Two products per head and token remain in place of 3 d^2.

    Args:
        query: (b, h, e), projected.
        tokens: (b, l, d).
        key, value: (h, e, d) weights.
        value_bias: (h, e).
        affine: (d,) gain and (d,) shift that the tokens still lack, of the norm before the projections.
        hidden: (b, l) True where the query must not look.

    Returns:
        (b, h * e), not yet through the output projection.
    """
    moved = torch.einsum("bhe,hed->bhd", query * query.shape[-1] ** -0.5, key)
    if affine is not None:
        moved = moved * affine[0]
    scores = moved.to(tokens.dtype) @ tokens.transpose(1, 2)  # (b, h, l)
    if hidden is not None:
        scores = scores.masked_fill(hidden[:, None, :], -torch.inf)
    mixed = scores.softmax(dim=-1).to(tokens.dtype) @ tokens  # (b, h, d)
    if affine is not None:
        mixed = mixed * affine[0] + affine[1]
    return (torch.einsum("bhd,hed->bhe", mixed, value) + value_bias).flatten(1)


def select_row(tokens: Tensor, position: Tensor) -> Tensor:
    """(b, l, d) and (b,) -> (b, d), the token at ``position`` of each input."""
    if tokens.ndim != 3:
        fix = "cut a transformer"
        raise UsageError(expected="tokens (b, l, d)", got=f"shape {tuple(tokens.shape)}", fix=fix, where="select_row")
    return tokens[torch.arange(tokens.shape[0], device=tokens.device), position]
