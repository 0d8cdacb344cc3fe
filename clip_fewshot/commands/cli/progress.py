"""How far a command is, on standard error: a bar per stage on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Event, RLock, Thread
from typing import NoReturn

Shown = Callable[[str, int, int], None]  # stage, done, total
FIRST_LINE, NEXT_LINE = 5.0, 30.0  # seconds until the first line, and between two


def show_progress() -> AbstractContextManager[Shown]:
    """A callback (stage, done, total) that draws or prints."""
    return _draw_bars() if sys.stderr.isatty() else _print_lines()


@contextmanager
def _draw_bars() -> Iterator[Shown]:
    from tqdm import tqdm

    tqdm.set_lock(RLock())  # its own works across processes: it starts a helper, which complains when a run is killed
    bars: dict[str, tqdm[NoReturn]] = {}  # the type of a bar that wraps no iterable

    def update(stage: str, done: int, total: int, /) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.update((bar.total or 0) - bar.n)  # the next stage begins: this one is over
                bar.close()
            bars[stage] = tqdm(desc=stage, file=sys.stderr)
        bars[stage].total = total
        bars[stage].update(done - bars[stage].n)

    try:
        yield update
    finally:
        for bar in bars.values():
            bar.close()


@contextmanager
def _print_lines() -> Iterator[Shown]:
    """The stage, and the share of it that is done; by a thread, for a unit of work may take minutes."""
    began, at, over = time.monotonic(), ["at work"], Event()

    def update(stage: str, done: int, total: int, /) -> None:
        at[0] = f"{stage}, {done} of {total} ({100 * done / total:.0f} %)" if total > 1 else stage

    def tell() -> None:
        seconds = FIRST_LINE
        while not over.wait(seconds):
            seconds = NEXT_LINE
            with suppress(OSError):  # nobody reads any more
                print(f"[{time.monotonic() - began:.0f} s] {at[0]}", file=sys.stderr, flush=True)

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield update
    finally:
        over.set()
        teller.join()
