"""The features that a detector may look at: of the frozen tower, the tuned one, both, or further down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.tower import CutState, Tower
from clip_fewshot.features.prefix import Prefix, replay
from clip_fewshot.geometry import unit_rows
from clip_fewshot.types import FloatArray

FROZEN, TUNED, BOTH = "frozen", "tuned", "both"
DEPTHS = (1, 2)  # last blocks left out; further down features tell less and less: see ``choose_novelty``
_DEPTH = "depth "


def list_stored_depths(tower: Tower) -> list[int]:
    """The cuts that a support set needs so that :data:`DEPTHS` may be chosen, where the tower has blocks below."""
    return [n for n in DEPTHS if n < tower.n_blocks]


def name_depth(n: int) -> str:
    """The name of the features that enter the last n blocks."""
    return f"{_DEPTH}{n}"


def parse_depth(space: str) -> int | None:
    """The n of :func:`name_depth`; None for the others."""
    return int(space.removeprefix(_DEPTH)) if space.startswith(_DEPTH) else None


def is_tuned(space: str) -> bool:
    """Whether the features depend on a tuned model."""
    return space in (TUNED, BOTH)


def build_space(space: str, frozen: FloatArray, own: FloatArray) -> FloatArray:
    """(n, d) rows of unit length per part: frozen features, a judge's own, or both side by side (n, 2d)."""
    parts: Sequence[FloatArray] = {FROZEN: (frozen,), BOTH: (frozen, own)}.get(space, (own,))
    return np.concatenate([unit_rows(part) for part in parts], axis=1)


class TokenReader(nn.Module):
    """What enters a block, as a feature: the token that the tail reads, or the mean of a ResNet's map."""

    def forward(self, state: CutState) -> Tensor:
        """(b, l, d) tokens or (b, c, h, w) map -> (b, d) or (b, c)."""
        tokens = state.tokens
        if tokens.ndim == 4:
            return tokens.float().mean(dim=(2, 3))
        if state.token is not None:
            return state.token.float()
        return tokens[torch.arange(len(tokens), device=tokens.device), state.position].float()


def encode_own(space: str, images: Prefix, tuned: FloatArray) -> FloatArray:
    """(n, d) what a judge of that space sees of the support set besides its frozen features."""
    n = parse_depth(space)
    return tuned if n is None else replay(images, n, TokenReader()).numpy()
