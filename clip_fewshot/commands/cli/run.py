"""How a command ends: every way becomes an exit code, and a user's mistake one line."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from clip_fewshot.commands.cli.parser import parse, rename_to_flags
from clip_fewshot.config import hide_passwords
from clip_fewshot.errors import ClipFewShotError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

DEBUG = "CLIP_FEWSHOT_DEBUG"
INTERRUPTED, TERMINATED, READER_GONE = 130, 143, 141  # 128 + SIGINT, SIGTERM, SIGPIPE: what a shell expects


def run(
    main: Callable[[T], int],
    options: type[T],
    prog: str,
    description: str,
    argv: Sequence[str] | None = None,
    examples: Sequence[str] = (),
) -> int:
    """Parse, call ``main``, and turn every way it can end into an exit code; a user's mistake is one line.

    0 what ``main`` returns, 2 usage, 1/2/4 the error's own ``exit_code``, 130 Ctrl-C, 143 SIGTERM.
    ``CLIP_FEWSHOT_DEBUG=1`` shows the traceback of a user's mistake too; a defect of ours always shows it.
    """
    chosen = parse(options, prog, description, argv, examples)
    try:
        with _terminable():
            code = main(chosen)
            sys.stdout.flush()  # here, not at exit: a reader that has gone is met inside this try
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except ClipFewShotError as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            sys.excepthook(type(error), error, error.__traceback__)
        print(f"error: {rename_to_flags(error, options)}", file=sys.stderr)
        return error.exit_code


def describe_start() -> str:
    """The words that started this process, without the options: clip-fewshot, python -m experiments.few_shot."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return Path(sys.argv[0]).name if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def describe_program() -> str:
    """The words before the name of any other command: clip-fewshot, or python -m clip_fewshot."""
    start = describe_start()
    return "python -m clip_fewshot" if start.startswith("python ") else start


def command_line() -> str:
    """What repeats this command; passwords are left out."""
    return hide_passwords(f"{describe_start()} {shlex.join(sys.argv[1:])}".strip())


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds the stack like Ctrl-C, so locks, files and children are let go; a second one kills at once."""

    def unwind(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
