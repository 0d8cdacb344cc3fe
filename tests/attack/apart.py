"""A command, or any call, in a fork of this process: it may hang, die or eat memory, and costs milliseconds."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from clip_fewshot.commands import run_command


class Ended(NamedTuple):
    """How a command ended: exit code, minus a signal, or None where it was still running; and what it said."""

    code: int | None
    out: str
    err: str

    def raw(self) -> str:
        """What no command may end in, as a word; empty where it ended well."""
        if self.code is None:
            return "hangs"
        if "Traceback (most recent call last)" in self.err or "panicked at" in self.err:
            last = [line for line in self.err.splitlines() if line and not line.startswith(" ")]
            return f"raw {last[-1].split(':')[0].split('.')[-1][:40]}" if last else "raw"
        if self.code not in (0, 2, 3, 4, 5):
            return f"ends with {self.code}"
        return "a flood of lines" if self.err.count("\n") > 60 else ""


def command(
    folder: Path,
    *words: object,
    cwd: Path | None = None,
    seconds: float = 60,
    memory: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """``command(folder, "zero_shot", "photos")``: what `clip-fewshot zero_shot photos` does.

    Args:
        folder: of the streams, and of ``cwd``.
        memory: bytes of data that it may hold.
    """

    def work() -> int:
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        os.environ.update(env or {})
        name, *argv = (os.fsdecode(word) if isinstance(word, bytes) else str(word) for word in words)
        return run_command(name, argv, f"clip-fewshot {name}")

    return call(folder, work, cwd, seconds)


def call(folder: Path, work: Callable[[], int], cwd: Path | None = None, seconds: float = 60) -> Ended:
    """``work`` in a fork, its streams in files of ``folder``."""
    place = folder / "work"
    (place / "cwd").mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if not child:
        _become(place, cwd or place / "cwd", work)
    code = wait(child, seconds)
    return Ended(code, *((place / name).read_text("utf-8", "replace") for name in ("out", "err")))


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a child, minus the signal that ended it; None: it was killed after ``seconds``."""
    end, pause = time.monotonic() + seconds, 0.001
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause := min(0.05, 1.5 * pause))
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _become(place: Path, cwd: Path, work: Callable[[], int]) -> None:
    code = 1
    try:
        os.setsid()
        os.chdir(cwd)
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), errors="backslashreplace", write_through=True)
        code = work()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # a child must never run the parent's code
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)


def fresh(folder: Path, name: str) -> Path:
    """An empty folder."""
    place = folder / "work" / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def shown(words: Sequence[object]) -> str:
    """A command line for a report."""
    return " ".join(ascii(str(word))[1:-1][:60] or "''" for word in words)
