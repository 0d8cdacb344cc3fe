"""Run the frozen layers once: store what enters every cut, replay it as often as training asks.

During the search nothing before the cut changes, so the residual stream that enters the last n blocks is a
constant of each picture. One forward pass stores it for every n at once; a training step then costs the suffix alone.
Stored are half-precision numbers, computed with are float32: half the bytes, gradients within 1e-3 (bfloat16 has
the same size and an eighth of the accuracy). A cut with a value that half precision cannot hold is stored in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clip_fewshot.backbones.tower import CutState, Tower
from clip_fewshot.errors import UsageError
from clip_fewshot.types import IndexArray

HALF = np.dtype(np.float16)
LARGEST_HALF = float(np.finfo(HALF).max)


class StoredRows(Protocol):
    """Stored rows of one shape, in memory or on disk."""

    def take(self, rows: Tensor) -> Tensor:
        """The chosen rows as float32, on the device they are computed with."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Rows in memory, or on a GPU.

    Attributes:
        device: where they are computed with.
    """

    values: Tensor
    device: torch.device

    def take(self, rows: Tensor) -> Tensor:
        """The chosen rows as float32, on the device they are computed with."""
        return self.values[rows.to(self.values.device)].to(self.device).float()

    def __getstate__(self) -> dict[str, Any]:
        # As plain bytes: torch would hand tensors to other processes through /dev/shm, which in docker holds 64 MB.
        return {"values": self.values.cpu().numpy(), "device": self.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__setattr__(self, "values", torch.from_numpy(state["values"]))
        object.__setattr__(self, "device", state["device"])


@dataclass(frozen=True)
class OnDisk:
    """Rows of a file that is mapped into memory when first read; all processes share its pages.

    Attributes:
        places: (rows,) where in the file each row is.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    places: IndexArray
    device: torch.device

    def take(self, rows: Tensor) -> Tensor:
        """The chosen rows, read from the file, as float32 on the device they are computed with."""
        if "mapped" not in self.__dict__:
            count = int(self.places.max()) + 1 if len(self.places) else 0
            mapped = np.memmap(self.path, self.dtype, "r", shape=(count, *self.shape))
            object.__setattr__(self, "mapped", mapped)
        mapped = self.__dict__["mapped"]
        return torch.from_numpy(np.asarray(mapped[self.places[rows.cpu().numpy()]])).to(self.device).float()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "mapped"}


@dataclass(frozen=True)
class Cut:
    """What enters the last n blocks, n >= 1.

    Attributes:
        tokens: rows (l, d), normalised where the last block reads one of them only; or (c, h, w).
        position: (rows,) int64.
        token: rows (d,) of float32 that go with normalised tokens; else None.
    """

    tokens: StoredRows
    position: Tensor
    token: StoredRows | None

    def at(self, rows: Tensor) -> CutState:
        """The state at this cut for the chosen rows."""
        tokens = self.tokens.take(rows)
        token = None if self.token is None else self.token.take(rows)
        return CutState(tokens, self.position[rows].to(tokens.device), token)


@dataclass(frozen=True)
class Prefix:
    """A fixed list of inputs behind the frozen layers.

    Attributes:
        features: (rows, d) float32 of the whole frozen tower, not normalised: the cut n = 0.
        cuts: n -> what enters the last n blocks, n >= 1.
        views: fixed views per input; view 0 is the plain one. Row of view v of input i: ``order[i] * views + v``.
        order: (inputs,) which of the stored inputs these are: a subset copies nothing.
    """

    features: Tensor
    cuts: Mapping[int, Cut]
    views: int
    order: Tensor

    def __len__(self) -> int:
        return len(self.order)

    def rows(self, n: int, items: Tensor, view: int | Tensor = 0) -> CutState:
        """The state before the last ``n`` >= 1 blocks of the chosen inputs, each in one view."""
        return self.cuts[n].at(self.order[items] * self.views + view)

    def frozen_features(self, items: Tensor | None = None, view: int | Tensor = 0) -> Tensor:
        """(inputs, d) features of the frozen tower."""
        order = self.order if items is None else self.order[items]
        return self.features[(order * self.views + view).to(self.features.device)]

    def outputs(self, n: int, suffix: nn.Module, items: Tensor, view: int | Tensor = 0) -> Tensor:
        """(items, d) features under a suffix of ``n`` blocks; under the frozen tower where n is 0."""
        if n == 0:
            return self.frozen_features(items, view)
        features: Tensor = suffix(self.rows(n, items, view))
        return features

    def subset(self, items: IndexArray) -> Prefix:
        """The chosen inputs with all their views."""
        return Prefix(self.features, self.cuts, self.views, self.order[torch.as_tensor(items)])


class Stored(NamedTuple):
    """One cut of some rows as it is kept: half precision where it can be."""

    tokens: NDArray[Any]
    token: NDArray[np.float32] | None
    position: Tensor


class FrozenPass(NamedTuple):
    """What one batch left behind: (b, d) features, and a cut per n."""

    features: Tensor
    cuts: dict[int, Stored]


def run_prefix(
    tower: Tower, batches: Iterable[Tensor], cuts: Sequence[int], views: int = 1, half: bool = True
) -> Prefix:
    """One forward pass over ``batches`` that stops at every cut on its way and keeps all in memory.

    Args:
        tower: the frozen tower; left as it is.
        batches: inputs of the tower, in order, all views of an input next to each other.
        cuts: the numbers of last layers n whose input to store, each in [0, n_blocks].
        half: store tokens in half precision where they fit and ``tower.halves``.

    Raises:
        UsageError: frozen layers that do not give the same output each time.
    """
    wanted = stored_cuts(cuts)
    passed = [freeze(tower, inputs, wanted, half and tower.halves) for inputs in batches]
    features = torch.cat([p.features for p in passed])
    device = features.device
    columns = {n: join_cuts([p.cuts[n] for p in passed], device) for n in wanted}
    return Prefix(features, columns, views, torch.arange(len(features) // views))


def stored_cuts(cuts: Iterable[int]) -> list[int]:
    """The cuts that need storing: n = 0 is the features, which are kept in any case."""
    return sorted({n for n in cuts if n > 0})


@torch.no_grad()
def freeze(tower: Tower, inputs: Tensor, cuts: Sequence[int], half: bool) -> FrozenPass:
    """One batch through the frozen layers; what entered each cut is moved off the device it was computed on."""
    check_frozen(tower)
    kept: dict[int, Stored] = {}
    for n, state in _states_at(tower, inputs, cuts):
        if n in cuts:
            kept[n] = _stored(tower.cut(state, n), half)
    return FrozenPass(tower.finish(state, n).float(), kept)


def check_frozen(tower: nn.Module) -> None:
    """Refuse layers whose output changes from one pass to the next: what they gave once is no constant.

    Raises:
        UsageError: names the layer.
    """
    for name, module in tower.named_modules():
        if not module.training:
            continue
        random = isinstance(module, (nn.Dropout, nn.AlphaDropout)) and module.p > 0
        moving = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if random or moving:
            what = f"{type(module).__name__} {name} in training mode"
            fix = "call .eval() on the backbone: stored states hold only where the frozen layers repeat themselves"
            expected = "frozen layers that give the same output each time"
            raise UsageError(expected=expected, got=what, fix=fix, where="prefix")


def join_cuts(parts: Sequence[Stored], device: torch.device) -> Cut:
    """Rows of several batches in memory; one batch that needs float32 makes all float32."""

    def stacked(arrays: Iterable[NDArray[Any]]) -> InMemory:
        return InMemory(torch.from_numpy(np.concatenate(list(arrays))).to(device), device)

    token = None if parts[0].token is None else stacked(p.token for p in parts if p.token is not None)
    return Cut(stacked(p.tokens for p in parts), torch.cat([p.position for p in parts]), token)


@torch.no_grad()
def replay(prefix: Prefix, n: int, suffix: nn.Module, batch: int = 64) -> Tensor:
    """Features (inputs, d) float32, on the CPU, of the stored inputs in their plain view under a suffix of n blocks."""
    items = torch.split(torch.arange(len(prefix)), batch)
    return torch.cat([prefix.outputs(n, suffix, piece).float().cpu() for piece in items])


@torch.no_grad()
def run_suffixes(tower: Tower, batches: Iterable[Tensor], suffixes: Sequence[tuple[int, nn.Module]]) -> list[Tensor]:
    """Features of every (n, suffix) for all inputs, sharing one pass through the frozen layers and storing none of it.

    Returns:
        For each suffix (inputs, d) float32, on the CPU. n = 0 means the frozen tower, whatever its suffix.
    """
    outputs: list[list[Tensor]] = [[] for _ in suffixes]
    depths = {n for n, _ in suffixes}
    check_frozen(tower)
    for inputs in batches:
        for n, state in _states_at(tower, inputs, stored_cuts(depths)):
            for output, (depth, suffix) in zip(outputs, suffixes, strict=True):
                if depth == n:
                    output.append(suffix(state).float().cpu())
        if 0 in depths:
            frozen = tower.finish(state, n).float().cpu()
            for output, (depth, _) in zip(outputs, suffixes, strict=True):
                if depth == 0:
                    output.append(frozen)
    return [torch.cat(output) for output in outputs]


def _states_at(tower: Tower, inputs: Tensor, cuts: Sequence[int]) -> Iterator[tuple[int, CutState]]:
    """The state before the last n blocks for each n >= 1, the deepest cut (largest n) first; without cuts, all n."""
    state, done = tower.embed(inputs), 0
    for n in sorted(set(cuts), reverse=True) or [tower.n_blocks]:
        start = tower.n_blocks - n
        state, done = tower.advance(state, done, start), start
        yield n, state


def _stored(state: CutState, half: bool) -> Stored:
    tokens = state.tokens.float()
    if half and float(tokens.abs().max()) <= LARGEST_HALF:  # NaN and infinity compare false
        tokens = tokens.half()
    token = None if state.token is None else state.token.float().cpu().numpy()
    return Stored(tokens.cpu().numpy(), token, state.position.cpu())
