"""One progress bar on standard error; nothing where that is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import NoReturn


@contextmanager
def show_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A callback (stage, done, total) that draws a bar per stage."""
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from tqdm import tqdm

    tqdm.set_lock(RLock())  # its own works across processes: it starts a helper, which complains when a run is killed
    bars: dict[str, tqdm[NoReturn]] = {}  # the type of a bar that wraps no iterable

    def update(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            bars[stage] = tqdm(total=total, desc=stage, file=sys.stderr)
        bars[stage].update(done - bars[stage].n)

    try:
        yield update
    finally:
        for bar in bars.values():
            bar.close()
