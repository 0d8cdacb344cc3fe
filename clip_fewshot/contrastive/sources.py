"""Batches in their order, from wherever a training stands."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from typing import cast

from clip_fewshot.data.pairs.batch import Identified, IdentityValue, PairBatch, PairSource
from clip_fewshot.errors import UsageError


@dataclass(frozen=True)
class IterableSource:
    """Any iterable as a source, read from its beginning in each epoch; to begin later, batches are passed over."""

    given: Iterable[PairBatch]
    length: int | None

    def steps(self) -> int:
        """Batches in an epoch."""
        if self.length is None:
            expected = "batches of a known number"
            raise UsageError(expected=expected, got="an iterator", fix="give steps in place of epochs", where="options")
        return self.length

    def batches(self, epoch: int, start: int = 0) -> Iterator[PairBatch]:
        """Those from ``start`` on."""
        return islice(iter(self.given), start, None)


def wrap_source(given: PairSource | Iterable[PairBatch], steps: int | None = None) -> PairSource:
    """Anything that yields batches as a source; ``steps`` is how many an iterator without a length has to yield."""
    if hasattr(given, "batches"):
        return cast(PairSource, given)
    return IterableSource(given, len(given) if isinstance(given, Sized) else steps)


def epoch_length(source: PairSource) -> int:
    """Steps of an epoch, at least one."""
    steps = source.steps()
    if steps < 1:
        expected = "a batch or more in an epoch"
        raise UsageError(expected=expected, got="none", fix="give more pairs, or a smaller batch", where="pairs")
    return steps


def read_identity(source: PairSource) -> dict[str, IdentityValue] | None:
    """What a source says of itself; None for one that says nothing, such as a list or a loader of the caller."""
    return dict(source.identity()) if isinstance(source, Identified) else None


def time_batches(source: PairSource, taken: int, total: int) -> Iterator[tuple[PairBatch, float]]:
    """The batches of steps ``taken`` to ``total`` and the seconds each was waited for."""
    length = epoch_length(source)
    while taken < total:
        epoch, start = divmod(taken, length)
        wanted = min(length - start, total - taken)
        batches = source.batches(epoch, start)
        for place in range(start, start + wanted):
            began = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                fix = "give more batches or fewer steps"
                got = f"{place}"
                raise UsageError(expected=f"{start + wanted} batches", got=got, fix=fix, where=f"epoch {epoch + 1}")
            yield batch, time.perf_counter() - began
        taken += wanted
