"""CLIP's vision transformer as a tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.tower import CutState, Tower
from clip_fewshot.backbones.transformer import TokenTail, Transformer


class VisionTransformer(Tower):
    """Patches, a class token, pre-norm, blocks; the class token, normed and projected, is the feature.

    Dosovitskiy et al., "An Image Is Worth 16x16 Words", 2021, eq. 1 to 4, with the norm before the blocks that Radford
    et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, sec. 2.4, added.
    """

    def __init__(
        self, image_size: int, patch_size: int, width: int, layers: int, heads: int, out_features: int, activation: str
    ) -> None:
        super().__init__()
        self.out_features, self.token_features = out_features, width
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((image_size // patch_size) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation, causal=False)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, out_features))
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=width**-0.5)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, first to last."""
        return self.transformer.blocks

    def embed(self, inputs: Tensor) -> CutState:
        """(b, 3, h, w) pixels, normalised -> (b, 1 + patches, d) tokens, the class token first."""
        patches = self.conv1(inputs).flatten(2).transpose(1, 2)  # (b, patches, d)
        first = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        tokens = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        return CutState(tokens, torch.zeros(tokens.shape[0], dtype=torch.int64, device=tokens.device))

    def tail(self) -> TokenTail:
        """Final norm and projection of the class token."""
        return TokenTail(self.ln_post, self.proj)
