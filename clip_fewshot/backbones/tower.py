"""Tower: stem, blocks, tail. The one place that knows what "the last N layers" means.

A tower can be cut before any of its blocks. What crosses a cut is a :class:`CutState`; the part behind the cut, copied
so that it can be trained, is a :class:`Suffix`. The frozen part in front of a cut therefore runs once per image.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clip_fewshot.errors import UsageError


class CutState(NamedTuple):
    """What crosses a cut between two blocks.

    Attributes:
        tokens: (b, l, d) residual stream of a transformer, or (b, c, h, w) map of a ResNet.
        position: (b,) int64 index of the token that the tail reads: 0 for images, the end-of-text token for texts.
        token: (b, d) that token as it is, where ``tokens`` are normalised for a :class:`OneRow` block; else None.
    """

    tokens: Tensor
    position: Tensor
    token: Tensor | None = None


class OneRow(nn.Module):
    """A block that can compute the one row of its output that the tail reads."""

    def normalise(self, state: CutState) -> CutState:
        """The part of the block that has no parameters, done ahead: what a cut before the last block stores."""
        raise NotImplementedError

    def forward_row(self, state: CutState) -> Tensor:
        """:meth:`normalise` state -> (b, d), row ``position`` of the output."""
        raise NotImplementedError


class PositionedBlock(nn.Module):
    """A block that must know where each input ends: ``forward(tokens, position)``. CLIP's causal blocks need not."""


class Tail(nn.Module):
    """Everything after the last block: final norm, pooling, projection."""

    def forward(self, state: CutState) -> Tensor:
        """State after the last block -> (b, out) features, not normalised."""
        raise NotImplementedError

    def tokens(self, state: CutState) -> Tensor:
        """State after the last block -> (b, l, d) tokens as the pooling sees them."""
        raise NotImplementedError


class Suffix(nn.Module):
    """The last blocks of a tower and its tail, as a module of its own.

    Batch normalisations keep their pretrained statistics in any mode: a handful of images per class cannot
    estimate better ones, and features computed before the cut would not fit to moving ones.
    """

    def __init__(self, blocks: Sequence[nn.Module], tail: Tail) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.tail = tail

    def forward(self, state: CutState) -> Tensor:
        """State at the cut -> (b, out) features, not normalised."""
        *earlier, last = self.blocks or [nn.Identity()]
        state = advance(earlier, state)
        if isinstance(last, OneRow):  # the tail reads one token, so the last block computes no other
            row = last.forward_row(state if state.token is not None else last.normalise(state))
            state = CutState(row[:, None], torch.zeros_like(state.position))
        else:
            state = advance([last], state)
        features: Tensor = self.tail(state)
        return features

    def tokens(self, state: CutState) -> Tensor:
        """State at the cut -> (b, l, d) normed tokens before pooling, for heads that have a pooling of their own."""
        return self.tail.tokens(advance(self.blocks, state))

    def train(self, mode: bool = True) -> Suffix:
        """Switch to training; batch normalisations stay in evaluation mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def advance(blocks: Iterable[nn.Module], state: CutState) -> CutState:
    """Run ``blocks`` on all tokens."""
    tokens = state.tokens
    for block in blocks:
        if state.token is not None:
            fix = "cut with Tower.advance"
            got = "normalised ones"
            raise UsageError(expected="tokens as the block before left them", got=got, fix=fix, where="advance")
        tokens = block(tokens, state.position) if isinstance(block, PositionedBlock) else block(tokens)
    return state._replace(tokens=tokens)


class Tower(nn.Module):
    """An encoder in three parts. Subclasses give the stem (:meth:`embed`), :attr:`blocks` and :meth:`tail`.

    Attributes:
        out_features: width of the features.
        token_features: width of the tokens that :meth:`Suffix.tokens` gives.
        halves: whether states may be stored in half precision. Not where the blocks have kinks: rounding switches
            rectified units on and off, which moved single gradients of an RN50 by 6 %, those of a ViT by 0.03 %.
        widest: most inputs that pass together on a CPU without a loss of speed. Wide maps want fewer: the C library
            gives memory above some 30 MB back after each layer, and the system clears it for the next one.
    """

    out_features: int
    token_features: int
    halves: bool = True
    widest: int = 32

    @property
    def unfrozen(self) -> int | None:
        """How many of the last blocks a task trains unless it is told otherwise; None: the usual number of the task."""
        return None

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The residual blocks in order of computation."""
        raise NotImplementedError

    @property
    def n_blocks(self) -> int:
        """Number of residual blocks: the largest N of "the last N layers"."""
        return len(self.blocks)

    def embed(self, inputs: Tensor) -> CutState:
        """The stem: pixels or token ids -> the state before the first block."""
        raise NotImplementedError

    def tail(self) -> Tail:
        """The tail, on this tower's own parameters (not a copy)."""
        raise NotImplementedError

    def advance(self, state: CutState, start: int, stop: int) -> CutState:
        """Run blocks[start:stop]."""
        if not 0 <= start <= stop <= self.n_blocks:
            got = f"{start}, {stop}"
            raise UsageError(expected=f"0 <= start <= stop <= {self.n_blocks}", got=got, fix="choose blocks that exist")
        return advance(self.blocks[start:stop], state)

    def cut(self, state: CutState, n: int) -> CutState:
        """The state before the last n blocks as a cut stores it: ready for the last block where that is next."""
        last = self.blocks[-1]
        return last.normalise(state) if self.reads_one_row(n) and isinstance(last, OneRow) else state

    def reads_one_row(self, n: int) -> bool:
        """Whether :meth:`cut` before the last ``n`` blocks normalises."""
        return n == 1 and isinstance(self.blocks[-1], OneRow)

    def finish(self, state: CutState, n: int) -> Tensor:
        """The last n blocks and the tail: state before them -> (b, out_features), not normalised."""
        features: Tensor = self._view(n)(state)
        return features

    def project(self, state: CutState) -> Tensor:
        """The tail: state after the last block -> (b, out_features), not normalised.

        Equal to :meth:`forward` up to rounding, which computes the one row of the last block that the tail reads.
        """
        features: Tensor = self.tail()(state)
        return features

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs -> (b, out_features), not normalised."""
        return self.finish(self.embed(inputs), self.n_blocks)

    def last_parameters(self, n: int) -> list[str]:
        """Names of the parameters that "the last n layers" are: the last n blocks and everything after; none for 0."""
        if n == 0:
            return []
        chosen = {id(parameter) for parameter in self._view(n).parameters()}
        return [name for name, parameter in self.named_parameters() if id(parameter) in chosen]

    def suffix(self, n: int) -> Suffix:
        """Deep float32 copy of the last n blocks and the tail; trainable, or frozen where n is 0.

        ``suffix(n)(advance(embed(x), 0, n_blocks - n))`` equals ``forward(x)`` bit for bit for n > 0; for n = 0 up to
        rounding.
        """
        return copy.deepcopy(self._view(n)).float().requires_grad_(n > 0).train(self.training)

    def _view(self, n: int) -> Suffix:
        """The suffix on this tower's own parameters."""
        if not 0 <= n <= self.n_blocks:
            fix = "choose a number in the range"
            raise UsageError(expected=f"a number of layers in 0..{self.n_blocks}", got=str(n), fix=fix)
        return Suffix(self.blocks[self.n_blocks - n :], self.tail())


class TextTower(Tower):
    """A tower over token ids."""

    def ends(self, tokens: Tensor) -> Tensor:
        """(b, l) token ids -> (b,) int64 index of the token that ends each text; none behind it counts."""
        raise NotImplementedError
