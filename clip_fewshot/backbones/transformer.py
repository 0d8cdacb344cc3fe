"""The residual attention block of CLIP's transformers and their tail; shared by the image and the text tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_fewshot.backbones.one_query import one_query_attention, select_row
from clip_fewshot.backbones.tower import CutState, OneRow, Tail
from clip_fewshot.errors import UsageError


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation of GELU that OpenAI trained with (Hendrycks and Gimpel, 2016, sec. 2)."""

    def forward(self, x: Tensor) -> Tensor:
        """x sigmoid(1.702 x), elementwise."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"quick_gelu": QuickGELU, "gelu": nn.GELU}


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., "Attention Is All You Need", 2017, eq. 1).

    The parameters have the names and layout of ``torch.nn.MultiheadAttention``: query, key and value weights stacked
    in ``in_proj_weight`` (3d, d). That module itself is not used: it takes (l, b, d) and two more copies of the tokens.
    """

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, l, d) -> (b, l, d)."""
        stacked = functional.linear(x, self.in_proj_weight, self.in_proj_bias)  # (b, l, 3d)
        query, key, value = stacked.reshape(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (b, heads, l, d)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def forward_row(self, tokens: Tensor, token: Tensor, position: Tensor, norm: nn.LayerNorm) -> Tensor:
        """The output row of one token per input, without keys or values of the others.

        Args:
            tokens: (b, l, d) normalised, before gain and shift of ``norm``.
            token: (b, d) the row at ``position`` among them.
            position: (b,).
        """
        b, length, d = tokens.shape
        w_q, w_k, w_v = self.in_proj_weight.reshape(3, self.heads, -1, d)  # each (heads, e, d)
        b_q, _, b_v = self.in_proj_bias.reshape(3, self.heads, -1)
        query = functional.linear(token * norm.weight + norm.bias, w_q.flatten(0, 1)).reshape(b, self.heads, -1) + b_q
        later = torch.arange(length, device=tokens.device) > position[:, None] if self.causal else None
        out: Tensor = self.out_proj(
            one_query_attention(query, tokens, w_k, w_v, b_v, (norm.weight, norm.bias), hidden=later)
        )
        return out


class Perceptron(nn.Module):
    """Two layers, four times as wide inside."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = ACTIVATIONS[activation]()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, l, d) -> (b, l, d)."""
        out: Tensor = self.c_proj(self.gelu(self.c_fc(x)))
        return out


class Block(OneRow):
    """Pre-norm residual block: attention, then the perceptron."""

    def __init__(self, width: int, heads: int, activation: str, causal: bool) -> None:
        super().__init__()
        self.attn = Attention(width, heads, causal)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Perceptron(width, activation)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(b, l, d) -> (b, l, d)."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out

    def normalise(self, state: CutState) -> CutState:
        """Tokens less mean and spread; gain and shift of ``ln_1`` are folded into :meth:`forward_row`."""
        width = self.ln_1.normalized_shape
        tokens = functional.layer_norm(state.tokens, width, eps=self.ln_1.eps)
        return CutState(tokens, state.position, select_row(state.tokens, state.position))

    def forward_row(self, state: CutState) -> Tensor:
        """:meth:`normalise` state -> (b, d), one row of :meth:`forward` per input for the price of one row."""
        if state.token is None:
            got = "raw tokens"
            raise UsageError(expected="a state from `normalised`", got=got, fix="call it first", where="Block.at")
        query = select_row(state.tokens, state.position)
        token = state.token + self.attn.forward_row(state.tokens, query, state.position, self.ln_1)
        out: Tensor = token + self.mlp(self.ln_2(token))
        return out


class Transformer(nn.Module):
    """A holder that gives the blocks OpenAI's names, ``transformer.resblocks.0`` and on; the towers run them."""

    def __init__(self, width: int, layers: int, heads: int, activation: str, causal: bool) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, heads, activation, causal) for _ in range(layers)))

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, first to last."""
        return list(self.resblocks)


class TokenTail(Tail):
    """Final norm and projection of one token per input."""

    def __init__(self, norm: nn.LayerNorm, projection: nn.Parameter) -> None:
        super().__init__()
        self.norm, self.projection = norm, projection

    def forward(self, state: CutState) -> Tensor:
        """State after the last block -> (b, out) features, not normalised."""
        token: Tensor = self.norm(select_row(state.tokens, state.position))  # (b, d)
        return token @ self.projection

    def tokens(self, state: CutState) -> Tensor:
        """State after the last block -> (b, l, d) normed tokens."""
        normed: Tensor = self.norm(state.tokens)
        return normed
