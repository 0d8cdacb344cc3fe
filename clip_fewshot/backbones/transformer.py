"""The residual attention block of CLIP's transformers and their tail; shared by the image and the text tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from clip_fewshot.backbones.tower import CutState, OneRow, Tail


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation of GELU that OpenAI trained with (Hendrycks and Gimpel, 2016, sec. 2)."""

    def forward(self, x: Tensor) -> Tensor:
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

    def at(self, x: Tensor, position: Tensor) -> Tensor:
        """The output row of one token per input, (b, l, d) and (b,) -> (b, d), without keys or values of the others.

        q . (Wk x_j) = (Wk' q) . x_j and sum_j a_j Wv x_j = Wv sum_j a_j x_j: both matrices move to the side of the one
        query. The key bias adds the same to every score and cancels; the value bias passes, as the weights sum to 1.
        A block then costs two products per head and token in place of 3 d^2, which is what the last block deserves.
        """
        b, length, d = x.shape
        w_q, w_k, w_v = self.in_proj_weight.reshape(3, self.heads, -1, d)  # each (heads, e, d)
        b_q, _, b_v = self.in_proj_bias.reshape(3, self.heads, -1)
        token = x[torch.arange(b, device=x.device), position]  # (b, d)
        query = torch.einsum("bd,hed->bhe", token, w_q) + b_q
        scores = torch.einsum("bhe,hed->bhd", query, w_k) @ x.transpose(1, 2)  # (b, heads, l)
        scores = scores * (d // self.heads) ** -0.5
        if self.causal:
            later = torch.arange(length, device=x.device) > position[:, None]
            scores = scores.masked_fill(later[:, None, :], -torch.inf)
        mixed = scores.softmax(dim=-1).to(x.dtype) @ x  # (b, heads, d)
        out: Tensor = self.out_proj((torch.einsum("bhd,hed->bhe", mixed, w_v) + b_v).flatten(1))
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

    def at(self, x: Tensor, position: Tensor) -> Tensor:
        """One row of :meth:`forward` per input, (b, l, d) and (b,) -> (b, d), for the price of one row."""
        token = x[torch.arange(len(x), device=x.device), position]
        token = token + self.attn.at(self.ln_1(x), position)
        out: Tensor = token + self.mlp(self.ln_2(token))
        return out


class Transformer(nn.Module):
    """A holder that gives the blocks OpenAI's names, ``transformer.resblocks.0`` and on; the towers run them."""

    def __init__(self, width: int, layers: int, heads: int, activation: str, causal: bool) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, heads, activation, causal) for _ in range(layers)))

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.resblocks)


class TokenTail(Tail):
    """Final norm and projection of one token per input."""

    def __init__(self, norm: nn.LayerNorm, projection: nn.Parameter) -> None:
        super().__init__()
        self.norm, self.projection = norm, projection

    def forward(self, state: CutState) -> Tensor:
        rows = torch.arange(len(state.tokens), device=state.tokens.device)
        token: Tensor = self.norm(state.tokens[rows, state.position])  # (b, d)
        return token @ self.projection

    def tokens(self, state: CutState) -> Tensor:
        normed: Tensor = self.norm(state.tokens)
        return normed
