"""Run the frozen layers once: store what enters every cut, replay it as often as training asks.

During the search nothing before the cut changes, so the residual stream that enters the last n blocks is a
constant of each picture. One forward pass stores it for every n at once; a training step then costs the suffix alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.tower import CutState, Tower
from clip_fewshot.types import IndexArray


@dataclass(frozen=True)
class Prefix:
    """What enters the last n blocks, for each n in ``cuts``, of a fixed list of inputs.

    Attributes:
        cuts: n -> state of all inputs; the rows of input i are ``i * views`` to ``i * views + views - 1``.
        views: fixed views per input; view 0 is the plain one.
    """

    cuts: Mapping[int, CutState]
    views: int = 1

    def __len__(self) -> int:
        return len(next(iter(self.cuts.values())).position) // self.views

    def rows(self, n: int, items: Tensor, view: int | Tensor = 0) -> CutState:
        """The state before the last ``n`` blocks of the chosen inputs, each in one view."""
        state, rows = self.cuts[n], items * self.views + view
        rows = rows.to(state.tokens.device)
        return CutState(state.tokens[rows], state.position[rows])

    def subset(self, items: IndexArray) -> Prefix:
        """The chosen inputs with all their views."""
        chosen = torch.as_tensor(items)
        rows = (chosen[:, None] * self.views + torch.arange(self.views)).flatten()
        picked = {}
        for n, state in self.cuts.items():
            at = rows.to(state.tokens.device)
            picked[n] = CutState(state.tokens[at], state.position[at])
        return Prefix(picked, self.views)


@torch.no_grad()
def run_prefix(tower: Tower, batches: Iterable[Tensor], cuts: Sequence[int], views: int = 1) -> Prefix:
    """One forward pass over ``batches`` that stops at every cut on its way.

    Args:
        tower: the frozen tower; left as it is.
        batches: inputs of the tower, in order, all views of an input next to each other.
        cuts: the numbers of last layers n whose input to store, each in [0, n_blocks].
    """
    stored: dict[int, list[CutState]] = {n: [] for n in cuts}
    for inputs in batches:
        for n, state in _states_at(tower, inputs, cuts):
            stored[n].append(CutState(state.tokens.float(), state.position))
    return Prefix({n: _concatenate(states) for n, states in stored.items()}, views)


@torch.no_grad()
def replay(prefix: Prefix, n: int, suffix: nn.Module, batch: int = 64) -> Tensor:
    """Features (inputs, d) float32, on the CPU, of the stored inputs in their plain view under a suffix of n blocks."""
    items = torch.split(torch.arange(len(prefix)), batch)
    return torch.cat([suffix(prefix.rows(n, piece)).float().cpu() for piece in items])


@torch.no_grad()
def run_suffixes(tower: Tower, batches: Iterable[Tensor], suffixes: Sequence[tuple[int, nn.Module]]) -> list[Tensor]:
    """Features of every (n, suffix) for all inputs, sharing one pass through the frozen layers and storing none of it.

    Returns:
        For each suffix (inputs, d) float32, on the CPU.
    """
    outputs: list[list[Tensor]] = [[] for _ in suffixes]
    for inputs in batches:
        for n, state in _states_at(tower, inputs, sorted({n for n, _ in suffixes})):
            for output, (depth, suffix) in zip(outputs, suffixes, strict=True):
                if depth == n:
                    output.append(suffix(state).float().cpu())
    return [torch.cat(output) for output in outputs]


def _states_at(tower: Tower, inputs: Tensor, cuts: Sequence[int]) -> Iterable[tuple[int, CutState]]:
    """The state before the last n blocks for each n, the deepest cut (largest n) first."""
    state, done = tower.embed(inputs), 0
    for n in sorted(set(cuts), reverse=True):
        start = tower.n_blocks - n
        state, done = tower.advance(state, done, start), start
        yield n, state


def _concatenate(states: list[CutState]) -> CutState:
    return CutState(torch.cat([s.tokens for s in states]), torch.cat([s.position for s in states]))
