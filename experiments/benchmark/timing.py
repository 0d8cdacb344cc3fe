"""CPU and wall time of several ways to do one thing, measured in turns in one process."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

WHOLE = ""  # the part of a side that is all of it


class Spent(NamedTuple):
    """Seconds: of all threads and finished children together, and of the clock on the wall."""

    cpu: float
    wall: float

    def __add__(self, other: object) -> Spent:
        if not isinstance(other, Spent):
            return NotImplemented
        return Spent(self.cpu + other.cpu, self.wall + other.wall)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.cpu - other.cpu, self.wall - other.wall)


@dataclass(frozen=True)
class Times:
    """Seconds per unit of work, one pair a repeat."""

    repeats: tuple[Spent, ...]

    @property
    def cpu(self) -> float:
        """Median of the CPU times."""
        return median(spent.cpu for spent in self.repeats)

    @property
    def wall(self) -> float:
        """Median of the wall times."""
        return median(spent.wall for spent in self.repeats)

    def scaled(self, factor: float) -> Times:
        """For another unit of work, ``factor`` times as large."""
        return Times(tuple(Spent(spent.cpu * factor, spent.wall * factor) for spent in self.repeats))


@dataclass
class Watch:
    """Adds up what the named parts of one repeat cost.

    Attributes:
        repeat: number of the repeat; -1 is the one that warms up and is not counted.
    """

    repeat: int = 0
    spent: dict[str, Spent] = field(default_factory=dict)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add what the block takes to the time of ``part``."""
        began = now()
        try:
            yield
        finally:
            self.spent[part] = self.spent.get(part, Spent(0.0, 0.0)) + (now() - began)


class Side(NamedTuple):
    """One way to do it: the work of one repeat, and how many units (pictures, prompts) that is."""

    work: Callable[[Watch], object]
    units: int = 1


def now() -> Spent:
    """CPU time so far, and the clock."""
    children = os.times()
    return Spent(time.process_time() + children.children_user + children.children_system, time.perf_counter())


def interleave(sides: Mapping[str, Side], repeats: int, warm_up: bool = True) -> dict[str, dict[str, Times]]:
    """side -> part -> times per unit; the part :data:`WHOLE` is all of the side's work.

    The order turns round from repeat to repeat, so that a machine that becomes slower on the way slows both sides.
    """
    spent: dict[str, list[dict[str, Spent]]] = {name: [] for name in sides}
    with _small_heap():
        for repeat in range(-1 if warm_up else 0, repeats):
            for name in list(sides) if repeat % 2 else list(sides)[::-1]:
                watch = Watch(repeat)
                gc.collect()  # the garbage of one side is not paid for by the other
                with watch(WHOLE):
                    sides[name].work(watch)
                if repeat >= 0:
                    spent[name].append(watch.spent)
    return {name: _times(found, sides[name].units) for name, found in spent.items()}


@contextmanager
def _small_heap() -> Iterator[None]:
    """Leave what exists now out of collections, one of which takes a quarter of a second with torch loaded."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _times(found: list[dict[str, Spent]], units: int) -> dict[str, Times]:
    return {part: Times(tuple(spent[part] for spent in found)).scaled(1 / units) for part in found[0]}
