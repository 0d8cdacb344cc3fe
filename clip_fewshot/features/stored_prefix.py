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
    FrozenPass,
    InMemory,
    OnDisk,
    Prefix,
    StoredRows,
    check_frozen,
    freeze,
    stored_cuts,
)
from clip_fewshot.runtime.environment import usable_memory
from clip_fewshot.runtime.progress import report_steps
from clip_fewshot.runtime.row_cache import Batch, CachedRows, RowCache, RowFile
from clip_fewshot.types import IndexArray

PREFIX_KIND = "prefix"
PREFIX_MEMORY_SHARE = 0.25  # of the machine's memory, for stored states
DEVICE_SHARE = 0.5  # of a GPU's free memory
FEATURES, TOKENS, TOKEN = "features", "tokens", "token"
StoredCut = tuple[str, int]  # what is stored, and before how many last blocks


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
        stage: what a progress bar says of them.
    """

    keys: Sequence[str]
    batches: Callable[[IndexArray], Iterator[Tensor]]
    batch: int
    position: Tensor
    views: int
    about: Mapping[str, Any]
    device: torch.device
    stage: str = "encode"


def run_cached_prefix(
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
    # Once a value of this tower did not fit into half precision, its states are kept in single precision.
    wide = any(RowFile.open_existing(PREFIX_KIND, _about(inputs, (TOKENS, n), half=False)) is not None for n in wanted)
    try:
        columns = _columns(tower, inputs, wanted, half and tower.halves and not wide)
    except _BeyondHalfError:
        columns = _columns(tower, inputs, wanted, half=False)
    return _prefix(inputs, columns, wanted, usable_memory() * PREFIX_MEMORY_SHARE if memory is None else memory)


class _BeyondHalfError(Exception):
    """A value does not fit into half precision."""


def _columns(tower: Tower, inputs: Inputs, cuts: Sequence[int], half: bool) -> dict[StoredCut, CachedRows]:
    """What is stored of all views of all inputs; computed where the cache does not hold it."""
    slots: list[StoredCut] = [(FEATURES, 0)]
    for n in cuts:
        slots += [(TOKENS, n), (TOKEN, n)] if tower.reads_one_row(n) else [(TOKENS, n)]
    cache = RowCache(PREFIX_KIND, {slot: _about(inputs, slot, half) for slot in slots})
    keys = [f"{key}/{view}" for key in inputs.keys for view in range(inputs.views)]
    return cache.rows(keys, lambda missing: _computed(tower, inputs, cuts, half, missing))


def _computed(
    tower: Tower, inputs: Inputs, cuts: Sequence[int], half: bool, missing: IndexArray
) -> Iterator[Batch[StoredCut]]:
    """All views of the inputs of which some view is missing, batch by batch."""
    items = np.unique(missing // inputs.views)
    starts = range(0, len(items), inputs.batch)
    batches = report_steps(inputs.batches(items), inputs.stage, len(items), inputs.batch)
    for start, batch in zip(starts, batches, strict=True):
        passed = freeze(tower, _padded(inputs, batch), cuts, half)
        if half and any(stored.tokens.dtype != HALF for stored in passed.cuts.values()):
            raise _BeyondHalfError
        part = items[start : start + inputs.batch]
        rows = (part[:, None] * inputs.views + np.arange(inputs.views)).ravel()
        yield rows, {slot: values[: len(rows)] for slot, values in _by_slot(passed).items()}


def _padded(inputs: Inputs, batch: Tensor) -> Tensor:
    """The batch, filled up with copies of its first input.

    Matrix kernels round in another way for another number of rows. A stored row must not depend on which others were
    missing with it, or the same command would write other bytes.
    """
    lacking = inputs.batch * inputs.views - len(batch)
    return torch.cat([batch, batch[:1].expand(lacking, *batch.shape[1:])]) if lacking else batch


def _about(inputs: Inputs, slot: StoredCut, half: bool) -> dict[str, Any]:
    precision = {"half": half} if slot[0] == TOKENS else {}
    return {**inputs.about, "what": slot[0], "cut": slot[1], **precision}


def _prefix(inputs: Inputs, columns: Mapping[StoredCut, CachedRows], cuts: Sequence[int], memory: float) -> Prefix:
    device = inputs.device
    n_rows = len(inputs.keys) * inputs.views
    size = sum(column.shelf.row_bytes for slot, column in columns.items() if slot[1] in cuts) * n_rows
    if device.type == "cuda" and size > DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
        device = torch.device("cpu")
    fits = size <= memory or device.type == "cuda"

    def held(column: CachedRows) -> StoredRows:
        if fits or column.loose:
            return InMemory(torch.from_numpy(column.read()).to(device), inputs.device)
        shelf = column.shelf
        return OnDisk(shelf.path, shelf.shape, shelf.dtype.str, column.places(), inputs.device)

    position = inputs.position.repeat_interleave(inputs.views)
    tokens = {slot[1]: held(columns[slot]) for slot in columns if slot[0] == TOKEN}
    cut = {n: Cut(held(columns[TOKENS, n]), position, tokens.get(n)) for n in cuts}
    features = torch.from_numpy(columns[FEATURES, 0].read()).to(inputs.device)
    return Prefix(features, cut, inputs.views, torch.arange(len(inputs.keys)))


def _by_slot(passed: FrozenPass) -> dict[StoredCut, NDArray[Any]]:
    columns: dict[StoredCut, NDArray[Any]] = {(FEATURES, 0): passed.features.cpu().numpy()}
    for n, stored in passed.cuts.items():
        columns[TOKENS, n] = stored.tokens
        if stored.token is not None:
            columns[TOKEN, n] = stored.token
    return columns
