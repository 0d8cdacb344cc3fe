"""The features that a detector may look at: of the frozen tower, the tuned one, both, or frozen and further down."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from clip_fewshot.backbones.one_query import select_row
from clip_fewshot.backbones.tower import CutState, Tower
from clip_fewshot.features.prefix import Prefix, replay
from clip_fewshot.geometry import unit_rows
from clip_fewshot.types import FloatArray

FROZEN, TUNED, BOTH = "frozen", "tuned", "both"
# Last blocks left out. What enters the last two tells less on every set: docs/figures/choosing_detectors.md.
DEPTHS = (1,)
_DEPTH = "depth "
_BESIDE = f"{FROZEN} and {_DEPTH}"  # an earlier release offered them alone, as "depth 1": such models are read
DEPTH_WEIGHT = 0.5  # beside frozen features; with 1 near classes of photos lose .002 and far pictures gain .008


def list_stored_depths(tower: Tower) -> list[int]:
    """The cuts that a support set needs so that :data:`DEPTHS` may be chosen, where the tower has blocks below."""
    return [n for n in DEPTHS if n < tower.n_blocks]


def name_depth(n: int) -> str:
    """The name of frozen features beside those that enter the last n blocks."""
    return f"{_BESIDE}{n}"


def parse_depth(space: str) -> int | None:
    """The n of :func:`name_depth`; None for the others."""
    _, found, n = space.partition(_DEPTH)
    return int(n) if found else None


def is_tuned(space: str) -> bool:
    """Whether the features depend on a tuned model."""
    return space in (TUNED, BOTH)


def build_space(space: str, frozen: FloatArray, own: FloatArray) -> FloatArray:
    """(n, d) rows: frozen features or a judge's own, of length 1, or both side by side (n, d + d').

    Those that enter the last block have half the length of the frozen ones beside them.
    """
    beside = space.startswith(_BESIDE)
    if space == FROZEN:
        return unit_rows(frozen)
    rows = unit_rows(own) * (DEPTH_WEIGHT if beside else 1)
    return np.concatenate([unit_rows(frozen), rows], axis=1) if beside or space == BOTH else rows


class TokenReader(nn.Module):
    """What enters a block, as a feature: the token that the tail reads, or the mean of a ResNet's map."""

    def forward(self, state: CutState) -> Tensor:
        """(b, l, d) tokens or (b, c, h, w) map -> (b, d) or (b, c)."""
        tokens = state.tokens
        if tokens.ndim == 4:
            return tokens.float().mean(dim=(2, 3))
        if state.token is not None:
            return state.token.float()
        return select_row(tokens, state.position).float()


def encode_own(space: str, images: Prefix, tuned: FloatArray) -> FloatArray:
    """(n, d) what a judge of that space sees of the support set besides its frozen features."""
    n = parse_depth(space)
    return tuned if n is None else replay(images, n, TokenReader()).numpy()
