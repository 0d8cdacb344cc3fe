"""The prefix on disk: take what an earlier run left, compute the rest, and hand out rows in memory or mapped.

Every row stands under what it was computed from: weights and preprocessing, the input's digest, the view, the cut and
the precision. Rows of other sets of inputs serve as well, and a kill loses one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip_fewshot.backbones.tower import Tower
from clip_fewshot.errors import UsageError
from clip_fewshot.features.prefix import (
    HALF,
    Cut,
    InMemory,
    OnDisk,
    Passed,
    Prefix,
    Rows,
    check_frozen,
    freeze,
    stored_cuts,
)
from clip_fewshot.runtime.environment import usable_memory
from clip_fewshot.runtime.row_cache import Shelf
from clip_fewshot.types import IndexArray

KIND = "prefix"
MEMORY_SHARE = 0.25  # of the machine's memory, for stored states
DEVICE_SHARE = 0.5  # of a GPU's free memory
FEATURES, TOKENS, TOKEN = "features", "tokens", "token"
Slot = tuple[str, int]  # what is stored, and before how many last blocks


@dataclass(frozen=True)
class Inputs:
    """Inputs of a tower that are made only when they are needed.

    Attributes:
        keys: digest of each input.
        batches: numbers of inputs -> their batches in order, all views of an input next to each other.
        batch: inputs in each of them but the last.
        position: (inputs,) the token that the tail reads.
        views: of each input.
        about: what else decides the states: weights, preprocessing, precision.
        device: where they are computed.
    """

    keys: Sequence[str]
    batches: Callable[[IndexArray], Iterator[Tensor]]
    batch: int
    position: Tensor
    views: int
    about: Mapping[str, Any]
    device: torch.device


def shelved_prefix(
    tower: Tower, inputs: Inputs, cuts: Sequence[int], memory: int | None = None, half: bool = True
) -> Prefix:
    """As :func:`run_prefix`, computing only what the cache does not hold.

    Args:
        cuts: numbers of last layers n, each in [0, n_blocks].
        memory: bytes of states held in memory, over which they are mapped from the disk; None: a quarter of RAM.
        half: store states in half precision where they fit and ``tower.halves``.

    Raises:
        UsageError: no inputs, or frozen layers that do not give the same output each time.
    """
    if not inputs.keys:
        raise UsageError(expected="at least one input", got="none", fix="give pictures or texts", where="prefix")
    check_frozen(tower)
    wanted = stored_cuts(cuts)
    slots: list[Slot] = [(FEATURES, 0)]
    for n in wanted:
        slots += [(TOKENS, n), (TOKEN, n)] if tower.reads_one_row(n) else [(TOKENS, n)]
    # Once a value of this tower did not fit into half precision, its states are kept in single precision.
    half = half and tower.halves
    wide = any(Shelf.existing(KIND, _about(inputs, (TOKENS, n), half=False)) is not None for n in wanted)
    table = _Table(inputs, slots, half=half and not wide)
    if not table.fill(tower, wanted):
        table = _Table(inputs, slots, half=False)
        table.fill(tower, wanted)
    return table.prefix(wanted, usable_memory() * MEMORY_SHARE if memory is None else memory)


def _about(inputs: Inputs, slot: Slot, half: bool) -> dict[str, Any]:
    precision = {"half": half} if slot[0] == TOKENS else {}
    return {**inputs.about, "what": slot[0], "cut": slot[1], **precision}


class _Table:
    """Which row of which shelf holds what, and the rows that the disk refused."""

    def __init__(self, inputs: Inputs, slots: Sequence[Slot], half: bool) -> None:
        self.inputs, self.slots, self.half = inputs, slots, half
        self.keys = [f"{key}/{view}" for key in inputs.keys for view in range(inputs.views)]
        self.shelves: dict[Slot, Shelf] = {}
        self.loose: dict[Slot, dict[int, NDArray[Any]]] = {}  # row -> its value, where no shelf took it

    def fill(self, tower: Tower, cuts: Sequence[int]) -> bool:
        """Compute what is missing; False where a value does not fit into half precision."""
        missing = self._missing()
        start = 0
        for batch in self.inputs.batches(missing) if len(missing) else ():
            passed = freeze(tower, self._padded(batch), cuts, self.half)
            if self.half and any(stored.tokens.dtype != HALF for stored in passed.cuts.values()):
                return False
            items = missing[start : start + self.inputs.batch]
            rows = (items[:, None] * self.inputs.views + np.arange(self.inputs.views)).ravel()
            for slot, values in _columns(passed).items():
                self._keep(slot, rows, values[: len(rows)])
            start += len(items)
        return True

    def _padded(self, batch: Tensor) -> Tensor:
        """A whole batch: matrix kernels round otherwise for other numbers of rows, and what a row holds must not depend
        on which others were missing with it, or the same command would end in other bytes."""
        lacking = self.inputs.batch * self.inputs.views - len(batch)
        return torch.cat([batch, batch[:1].expand(lacking, *batch.shape[1:])]) if lacking else batch

    def _missing(self) -> IndexArray:
        """The inputs, each once, of which some view is lacking on some shelf."""
        lacking = np.zeros(len(self.keys), dtype=bool)
        for slot in self.slots:
            shelf = Shelf.existing(KIND, _about(self.inputs, slot, self.half))
            if shelf is not None:
                self.shelves[slot] = shelf
            lacking |= True if shelf is None else shelf.find(self.keys) < 0
        items = np.flatnonzero(lacking.reshape(-1, self.inputs.views).any(axis=1))
        once = {self.inputs.keys[item]: item for item in reversed(items.tolist())}
        return np.array(sorted(once.values()), dtype=np.int64)

    def _keep(self, slot: Slot, rows: IndexArray, values: NDArray[Any]) -> None:
        if slot not in self.shelves:
            about = _about(self.inputs, slot, self.half)
            self.shelves[slot] = Shelf(KIND, about, values.shape[1:], values.dtype)
        # Once the disk has refused, no further attempt is made.
        refused = slot in self.loose
        if refused or not self.shelves[slot].append([self.keys[row] for row in rows], values):
            self.loose.setdefault(slot, {}).update(zip(rows.tolist(), values, strict=True))

    def prefix(self, cuts: Sequence[int], memory: float) -> Prefix:
        inputs, device = self.inputs, self.inputs.device
        size = sum(shelf.row_bytes for slot, shelf in self.shelves.items() if slot[1] in cuts) * len(self.keys)
        if device.type == "cuda" and size > DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            device = torch.device("cpu")
        position = inputs.position.repeat_interleave(inputs.views)
        fits = size <= memory or device.type == "cuda"
        columns = {}
        for n in cuts:
            token = self._rows((TOKEN, n), fits, device) if (TOKEN, n) in self.slots else None
            columns[n] = Cut(self._rows((TOKENS, n), fits, device), position, token)
        features = torch.from_numpy(self._values((FEATURES, 0))).to(inputs.device)
        return Prefix(features, columns, inputs.views, torch.arange(len(inputs.keys)))

    def _rows(self, slot: Slot, in_memory: bool, device: torch.device) -> Rows:
        if in_memory or slot in self.loose:
            return InMemory(torch.from_numpy(self._values(slot)).to(device), self.inputs.device)
        shelf = self.shelves[slot]
        return OnDisk(shelf.path, shelf.shape, shelf.dtype.str, shelf.find(self.keys), self.inputs.device)

    def _values(self, slot: Slot) -> NDArray[Any]:
        shelf, loose = self.shelves[slot], self.loose.get(slot, {})
        if not loose:
            return shelf.read(shelf.find(self.keys))
        places = shelf.find(self.keys)
        values = np.empty((len(self.keys), *shelf.shape), shelf.dtype)
        held = places >= 0
        values[held] = shelf.read(places[held])
        for row, value in loose.items():
            values[row] = value
        return values


def _columns(passed: Passed) -> dict[Slot, NDArray[Any]]:
    columns: dict[Slot, NDArray[Any]] = {(FEATURES, 0): passed.features.cpu().numpy()}
    for n, stored in passed.cuts.items():
        columns[TOKENS, n] = stored.tokens
        if stored.token is not None:
            columns[TOKEN, n] = stored.token
    return columns
