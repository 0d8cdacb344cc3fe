"""How far a command is, on standard error: bars on a terminal, else a line now and then."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Event, RLock, Thread
from typing import TYPE_CHECKING, Any, NoReturn, cast

from clip_fewshot.runtime.progress import Shown, watch_steps
from clip_fewshot.runtime.units import format_seconds

if TYPE_CHECKING:
    from tqdm import tqdm

    Bar = tqdm[NoReturn]  # the type of one that wraps no iterable

FIRST_LINE, NEXT_LINE = 5.0, 30.0  # seconds until the first line, and between two
FIRST_BAR, TICK = 2.0, 1.0  # seconds until one that says "at work", and between two drawings of one that does not move
AT_WORK = "at work"


@contextmanager
def show_progress(quiet: bool = False) -> Iterator[Shown]:
    """A callback (stage, done, total) that draws or prints; loops inside the library are shown below it.

    Inside another one its stages are shown in that one's place: every command has one around all it does.
    """
    whole = _screen.get()
    if whole is not None:
        yield whole.show_stage
        whole.end_stages()
        return
    screen: _Screen = _Screen() if quiet else _Bars() if sys.stderr.isatty() else _Lines()
    over, token = Event(), _screen.set(screen)
    teller = Thread(target=screen.tell, args=(over,), daemon=True)
    teller.start()
    try:
        with watch_steps(screen.show_loop):
            yield screen.show_stage
    finally:
        _screen.reset(token)
        over.set()
        teller.join()
        screen.end()


class _Screen:
    """Where progress is shown; this one shows none. A stage is what a command says it does, a loop serves it."""

    def show_stage(self, stage: str, done: int, total: int, /) -> None:
        """``done`` of ``total`` steps."""

    def show_loop(self, stage: str, done: int, total: int, /) -> None:
        """The same of a loop of the library."""

    def end_stages(self) -> None:
        """No stage is under way."""

    def tell(self, over: Event) -> None:
        """In a thread of its own, for a unit of work may take minutes."""

    def end(self) -> None:
        """Nothing is shown from now on; what stands stays."""


_screen: ContextVar[_Screen | None] = ContextVar("screen", default=None)


class _Lines(_Screen):
    """The stage, the share of it that is done and the time that is left, a line each."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._stage, self._loops = AT_WORK, dict[str, str]()
        self._starts: dict[str, tuple[float, int]] = {}  # when a stage began, and with how many done

    def show_stage(self, stage: str, done: int, total: int, /) -> None:
        self._stage = self._describe(stage, done, total)

    def show_loop(self, stage: str, done: int, total: int, /) -> None:
        if done < total:
            self._loops[stage] = self._describe(stage, done, total)
        else:
            self._loops.pop(stage, None)
            self._starts.pop(stage, None)

    def _describe(self, stage: str, done: int, total: int) -> str:
        if total <= 1:
            return stage
        began, first = self._starts.setdefault(stage, (time.monotonic(), done))
        left = (time.monotonic() - began) / (done - first) * (total - done) if first < done < total else None
        ends = "" if left is None else f", {format_seconds(left)} left"
        return f"{stage}, {done:,} of {total:,} ({100 * done / total:.0f} %){ends}"

    def end_stages(self) -> None:
        self._stage = AT_WORK

    def tell(self, over: Event) -> None:
        seconds = FIRST_LINE
        while not over.wait(seconds):
            seconds = NEXT_LINE
            at = "; ".join([self._stage, *self._loops.copy().values()]).removeprefix(f"{AT_WORK}; ")
            with suppress(OSError):  # the reader is gone
                print(f"[{time.monotonic() - self._began:.0f} s] {at}", file=sys.stderr, flush=True)


class _Bars(_Screen):
    """A bar for each stage, which stays, and for each loop, which goes; one that says "at work" where there is none."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._began, self._tqdm, self._lock, self._stderr = time.time(), tqdm, RLock(), sys.stderr
        tqdm.set_lock(self._lock)  # its own works across processes: it starts a helper, which complains when killed
        self._stages: dict[str, Bar] = {}
        self._loops: dict[str, Bar] = {}
        self._replaced = {"stdout": sys.stdout, "stderr": sys.stderr}
        for name, stream in self._replaced.items():
            if stream.isatty():
                setattr(sys, name, cast(Any, _AboveBars(stream, self.clear)))

    def show_stage(self, stage: str, done: int, total: int, /) -> None:
        with self._lock:
            if stage not in self._stages:
                self.end_stages()  # the next stage begins: the one before is over
                self._stages[stage] = self._open(stage)
            self._move(self._stages[stage], done, total)

    def show_loop(self, stage: str, done: int, total: int, /) -> None:
        with self._lock:
            if done >= total:
                if stage in self._loops:
                    self._loops.pop(stage).close()
                return
            if stage not in self._loops:
                self._loops[stage] = self._open(stage, leave=False, delay=TICK, initial=done)
            self._move(self._loops[stage], done, total)

    def _open(self, stage: str, **more: Any) -> Bar:
        if AT_WORK in self._loops and stage != AT_WORK:
            self._loops.pop(AT_WORK).close()
        columns = shutil.get_terminal_size().columns - 1  # tqdm itself draws nothing where a terminal reports none
        return self._tqdm(desc=stage, file=self._stderr, ncols=columns, **more)

    def _move(self, bar: Bar, done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    def end_stages(self) -> None:
        with self._lock:
            for bar in self._stages.values():
                if not bar.disable:
                    bar.update((bar.total or 0) - bar.n)
                    bar.close()

    def tell(self, over: Event) -> None:
        seconds = FIRST_BAR
        while not over.wait(seconds):
            seconds = TICK
            with self._lock, suppress(OSError):
                bars = [bar for bar in (*self._stages.values(), *self._loops.values()) if not bar.disable]
                if not bars:
                    waiting = self._open(AT_WORK, leave=False, bar_format="{desc} [{elapsed}]")
                    waiting.start_t, self._loops[AT_WORK] = self._began, waiting
                for bar in bars:
                    bar.refresh()

    def clear(self) -> None:
        """Make room for a line; the next tick draws what was there."""
        with self._lock:
            for bar in (*self._stages.values(), *self._loops.values()):
                if not bar.disable:
                    bar.clear()

    def end(self) -> None:
        for name, stream in self._replaced.items():
            setattr(sys, name, stream)
        self.end_stages()
        for bar in self._loops.values():
            bar.close()


class _AboveBars:
    """A stream of a terminal on which no line shares its place with a bar."""

    def __init__(self, stream: Any, clear: Any) -> None:
        self._stream, self._clear = stream, clear

    def write(self, text: str) -> int:
        self._clear()
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
