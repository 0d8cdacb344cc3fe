"""CLIP's text transformer as a tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.tower import CutState, TextTower
from clip_fewshot.backbones.transformer import Block, TokenTail, Transformer
from clip_fewshot.errors import UsageError


class TextTransformer(TextTower):
    """Causal transformer over byte-pair tokens; the end-of-text token, normed and projected, is the feature.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, sec. 2.4. The
    end-of-text token has the highest id of the vocabulary, so its place is the argmax of the ids (the first one where a
    text holds several).
    """

    def __init__(
        self,
        context_length: int,
        vocab_size: int,
        width: int,
        layers: int,
        heads: int,
        out_features: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.out_features, self.token_features = out_features, width
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Transformer(width, layers, heads, activation, causal=True)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, out_features))
        self._initialise(width, layers)

    def _initialise(self, width: int, layers: int) -> None:
        """Normal with the deviations that OpenAI's code uses; it scales the residual branches down with the depth."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        residual = (2 * layers * width) ** -0.5
        for block in self.transformer.modules():
            if isinstance(block, Block):
                nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
                nn.init.normal_(block.attn.out_proj.weight, std=residual)
                nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
                nn.init.normal_(block.mlp.c_proj.weight, std=residual)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, first to last."""
        return self.transformer.blocks

    def embed(self, inputs: Tensor) -> CutState:
        """(b, l) token ids, l up to the context length -> (b, l, d) tokens.

        Columns after the last end-of-text token of the batch may be cut off (``Backbone.trim``): the attention is
        causal, so they cannot change the feature.
        """
        length, longest = inputs.shape[1], len(self.positional_embedding)
        if length > longest:
            got = str(length)
            raise UsageError(expected=f"at most {longest} tokens per text", got=got, fix="use Backbone.tokenize")
        tokens = self.token_embedding(inputs) + self.positional_embedding[:length]
        return CutState(tokens, self.ends(inputs))

    def ends(self, tokens: Tensor) -> Tensor:
        """(b, l) token ids -> (b,) index of the end mark, which has the highest id."""
        return tokens.argmax(dim=-1)

    def tail(self) -> TokenTail:
        """Final norm and projection of the token at the end mark."""
        return TokenTail(self.ln_final, self.text_projection)
