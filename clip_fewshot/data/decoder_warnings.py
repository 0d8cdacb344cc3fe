"""What decoders say while they decode, kept for the file that they say it of.

Pillow warns through Python, and of TIFFs through its log, which have one handler for all threads; libtiff writes lines
without a file's name to the standard error of the process, so that it decodes one file after the other.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock, local

_STANDARD_ERROR = 2  # the file descriptor
_LIBTIFF_LINE = re.compile(rb"[\w.]+: [^\n]+\.\n")
_thread = local()  # .heard: where what is said in this thread goes
_libtiff = Lock()
_LOGGER = logging.getLogger("PIL.TiffImagePlugin")


@contextmanager
def listening(heard: list[str], libtiff: bool) -> Iterator[None]:
    """Append to ``heard`` what is said in this thread inside the block; ``libtiff``: also on standard error."""
    _thread.heard = heard
    try:
        with HANDLER, ExitStack() as stack:
            if libtiff:
                stack.enter_context(_libtiff)
                stack.enter_context(_caught_lines(heard))
            yield
    finally:
        _thread.heard = None


class _Handler:
    """Of Python's warnings and Pillow's log: set by the first thread that listens and taken away by the last.

    To set it makes Python forget which warnings it has shown, so that pools of threads set it once for all pictures.
    """

    def __init__(self) -> None:
        self._lock, self._users = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._before, self._others = warnings.catch_warnings(), warnings.showwarning
                self._before.__enter__()
                warnings.filterwarnings("always", module=r"PIL\.")
                warnings.showwarning = self._hear  # type: ignore[assignment]
                _LOGGER.addFilter(self._hear_record)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                _LOGGER.removeFilter(self._hear_record)
                self._before.__exit__(None, None, None)

    def _hear(self, message: Warning | str, *place: object) -> None:
        heard: list[str] | None = getattr(_thread, "heard", None)
        if heard is None:
            self._others(message, *place)  # type: ignore[arg-type]
        else:
            heard.append(str(message))

    def _hear_record(self, record: logging.LogRecord) -> bool:
        """Whether the record goes on to the log."""
        heard: list[str] | None = getattr(_thread, "heard", None)
        if heard is not None and record.levelno >= logging.WARNING:
            heard.append(record.getMessage())
        return heard is None


HANDLER = _Handler()


@contextmanager
def _caught_lines(heard: list[str]) -> Iterator[None]:
    """Lines of libtiff go to ``heard``; what else is written to standard error meanwhile follows there."""
    try:
        before = os.dup(_STANDARD_ERROR)
    except OSError:  # closed: nothing will be said
        yield
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), _STANDARD_ERROR)
        try:
            yield
        finally:
            os.dup2(before, _STANDARD_ERROR)
            os.close(before)
            file.seek(0)
            said = file.read()
            heard += [line.decode(errors="replace").strip() for line in _LIBTIFF_LINE.findall(said)]
            others = _LIBTIFF_LINE.sub(b"", said)
            if others:
                os.write(_STANDARD_ERROR, others)
