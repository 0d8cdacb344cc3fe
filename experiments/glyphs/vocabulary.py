"""The few tokens that rendered captions use, out of CLIP's 49,408.

Training runs on a compact embedding table: AdamW over the full one would cost more than the rest of the step. Row 0
stands for every other token and learns what an unknown word means to this model: little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.tokenizer import tokenize
from experiments.glyphs import captions
from experiments.glyphs.pool import SOURCES, GlyphClass
from experiments.glyphs.scenes import COLOURS, GROUNDS, KINDS

TABLE = "token_embedding.weight"
UNKNOWN = 0


class Vocabulary:
    """Maps CLIP's token ids to rows of the compact table and back; the end mark keeps the highest number."""

    def __init__(self, classes: Sequence[GlyphClass]) -> None:
        texts = [text.format(" ") for text in captions.FRAMES]
        texts += [*captions.NOUNS, *captions.MANNERS, *captions.PLACES, *captions.CONNECTIVES]
        texts += [*captions.SIZES, *captions.COLUMNS, *captions.ROWS, *SOURCES, *COLOURS, *GROUNDS, *KINDS]
        texts += [name for item in classes for name in item.names]
        ids = torch.unique(tokenize(texts))
        self.used_ids = ids[ids > 0]  # 0 is the padding, which no feature depends on
        self.size = len(self.used_ids) + 1
        self._rows = torch.full((int(ids.max()) + 1,), UNKNOWN)
        self._rows[self.used_ids] = torch.arange(1, self.size)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (k, 77) rows of the compact table."""
        return self._rows[tokenize(texts)]

    def forget(self, rows: Tensor, share: float, rng: np.random.Generator) -> Tensor:
        """The same with a share of the words, never the marks, replaced by the unknown one."""
        words = (rows > UNKNOWN) & (rows < self.size - 2)
        return rows.masked_fill(words & torch.from_numpy(rng.random(tuple(rows.shape)) < share), UNKNOWN)

    def widen(self, backbone: Backbone) -> Backbone:
        """A model over CLIP's whole vocabulary that computes what the compact one does."""
        config = replace(backbone.config, vocab_size=len(self._rows))
        state = backbone.state_dict()
        state[TABLE] = state[TABLE][self._rows]
        wide = build_backbone(config, name=backbone.name)
        wide.load_state_dict(state)
        return wide.eval()
