"""How a command ends: every way becomes an exit code, and a user's mistake one line."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import io
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

from clip_fewshot.commands.cli.parser import parse, rename_to_flags
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.config import HIDDEN
from clip_fewshot.errors import ClipFewShotError, ResourceError
from clip_fewshot.runtime.units import format_size

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

DEBUG = "CLIP_FEWSHOT_DEBUG"
INTERRUPTED, TERMINATED, READER_GONE = 130, 143, 141  # 128 + SIGINT, SIGTERM, SIGPIPE: what a shell expects
NO_RESOURCE = 4  # the exit code of ResourceError
LEAST_MEMORY = 1 << 30  # bytes of addresses: torch and NumPy alone take 0.8 of it
CLOSED = "standard output: expected an open one, got a closed one; send it to a file"
STREAMS = ("stdin", "stdout", "stderr")  # by the number of their descriptors
NO_OUTPUT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}  # files of ours end in ResourceError
NO_MEMORY = re.compile(  # in the words of torch, C++, the dynamic linker, and of Rust where Python had none for it
    r"out of memory|allocate memory|not enough memory|bad_alloc|start new thread|map segment|pointer is null",
    re.IGNORECASE,
)


atexit.register(gc.freeze)  # else the interpreter's last collection goes through all of torch: 0.8 s of CPU time


def run(
    main: Callable[[T], int],
    options: type[T],
    prog: str,
    description: str,
    argv: Sequence[str] | None = None,
    examples: Sequence[str] = (),
) -> int:
    """Parse, call ``main``, and turn every way it can end into an exit code; a user's mistake is one line.

    0 what ``main`` returns, 2 usage, 1/2/4 the error's own ``exit_code``, 4 too little memory or no standard output,
    130 Ctrl-C, 143 SIGTERM. ``CLIP_FEWSHOT_DEBUG=1`` shows the traceback of a user's mistake too; a defect of ours
    always shows it.
    """
    closed = _open_streams()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it complains where the user has no home folder
    chosen = parse(options, prog, description, argv, examples)
    try:
        _check_memory()
        with _terminable(), _never_swallowed(), show_progress(getattr(chosen, "quiet", False) or _follows()):
            code = main(chosen)
            sys.stdout.flush()  # here, not at exit: a reader that has gone is met inside this try
        return code if not closed else _report(f"error: {CLOSED}", NO_RESOURCE)
    except KeyboardInterrupt:
        return _report("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _discard_output()
        return READER_GONE
    except ClipFewShotError as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            sys.excepthook(type(error), error, error.__traceback__)
        return _report(f"error: {_shorten(rename_to_flags(error, options))}", error.exit_code)
    except BaseException as error:  # Rust's panics, in which a lack of memory ends, are no Exception
        cause = _lacking(error)
        if cause is None:
            raise
        return _report(f"error: {cause}", NO_RESOURCE)


def describe_start() -> str:
    """The words that started this process, without the options: clip-fewshot, python -m experiments.few_shot."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return Path(sys.argv[0]).name if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def describe_program() -> str:
    """The words before the name of any other command: clip-fewshot, or python -m clip_fewshot."""
    start = describe_start()
    return "python -m clip_fewshot" if start.startswith("python ") else start


def command_line() -> str:
    """What repeats this command; the address of a database, in which a password may stand, is left out."""
    words = list(sys.argv[1:])
    for i, word in enumerate(words):
        if i and words[i - 1] == "--storage":
            words[i] = HIDDEN
        elif word.startswith("--storage="):
            words[i] = f"--storage={HIDDEN}"
    return f"{describe_start()} {shlex.join(words)}".strip()


def _follows() -> bool:
    """Whether this is one of the processes of torchrun, and not the first, which speaks for all."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def _check_memory() -> None:
    """Refuse a limit on memory (ulimit -v) under which the import of NumPy would ask for more for ever."""
    if sys.platform == "win32":
        return
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_MEMORY:
        expected = f"a limit of {format_size(LEAST_MEMORY)} or more"
        raise ResourceError(expected=expected, got=format_size(limit), fix="raise it (ulimit -v)", where="memory")


def _report(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


def _shorten(message: str) -> str:
    """``message`` for a terminal: control characters as escapes, words of thousands of characters cut."""
    from clip_fewshot.data.names import escape

    return re.sub(r"\S{600,}", lambda word: f"{word[0][:300]}[...]{word[0][-100:]}", escape(message))


def _open_streams() -> bool:
    """Make all three standard streams usable; whether standard output was closed.

    A closed one is opened to nowhere: else the next file that is opened takes its number, and what other libraries
    print there ends in that file. A letter that standard output has no code for is printed as its escape.
    """
    closed = set()
    for number, name in enumerate(STREAMS):
        if not _is_open(number):
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            closed.add(name)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return "stdout" in closed


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _discard_output() -> None:
    """What is still to be printed goes nowhere; else the interpreter complains of it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _lacking(error: BaseException) -> str | None:
    """What the machine lacked, if that is what ``error`` says in whatever library's words."""
    if isinstance(error, OSError) and error.filename is None and error.errno in NO_OUTPUT:
        _discard_output()
        return f"standard output: expected a place to write to, got: {error.strerror}; free some space"
    kinds = (RuntimeError, OSError, ImportError, SystemError)
    panic = type(error).__name__ == "PanicException"
    if isinstance(error, MemoryError) or ((panic or isinstance(error, kinds)) and NO_MEMORY.search(str(error))):
        text = " ".join(str(error).split())[:200] or type(error).__name__
        fix = "give it more (ulimit -v), or ask for less; what was finished is kept"
        return f"memory: expected enough of it, got: {text}; {fix}"
    return None


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


@contextlib.contextmanager
def _never_swallowed() -> Iterator[None]:
    """Raise Ctrl-C and SIGTERM a moment later again where they came inside a destructor, which reports and goes on."""
    before = sys.unraisablehook

    def hook(met: Any) -> None:
        stop = met.exc_value
        if not isinstance(stop, KeyboardInterrupt | SystemExit) or not hasattr(signal, "setitimer"):
            before(met)
            return

        def again(number: int, frame: FrameType | None) -> None:
            raise type(stop)(*stop.args)

        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
