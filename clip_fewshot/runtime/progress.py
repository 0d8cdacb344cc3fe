"""Long loops of the library tell a listener how far they are; no callback is handed down to them.

A command listens (:mod:`clip_fewshot.commands.cli.progress`). In a notebook no command does: tqdm draws its own bar.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
Shown = Callable[[str, int, int], None]  # stage, done, total
NOTEBOOK, NOTEBOOK_DELAY = "ipykernel", 2  # the module that runs one; seconds without a bar
_listener: ContextVar[Shown | None] = ContextVar("listener", default=None)


@contextmanager
def watch_steps(listener: Shown) -> Iterator[None]:
    """Call ``listener`` (stage, done, total) of every loop inside the block; a loop that ends is done in full."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report_steps(items: Iterable[T], stage: str, total: int, step: int = 1, done: int = 0) -> Iterator[T]:
    """``items`` one by one, each told as ``step`` of ``total`` units once the loop is through with it.

    Args:
        done: units that an earlier run is through with; ``items`` begin behind them.
    """
    listener = _listener.get()
    if listener is None:
        yield from _draw_in_notebook(items, stage, -(-(total - done) // step)) if NOTEBOOK in sys.modules else items
        return
    try:
        listener(stage, done, total)
        for i, item in enumerate(items, start=1):
            yield item
            listener(stage, min(done + i * step, total), total)
    finally:
        listener(stage, total, total)


def _draw_in_notebook(items: Iterable[T], stage: str, total: int) -> Iterable[T]:
    with warnings.catch_warnings():  # where ipywidgets is missing it warns, and draws its bar in plain characters
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm(items, desc=stage, total=total, delay=NOTEBOOK_DELAY, leave=False)
