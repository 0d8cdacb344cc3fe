"""Every file that is read whole: a regular file of a sane size, and JSON that is JSON. A pipe is never waited for."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.units import format_size

MOST_BYTES = 1 << 30  # a list of ten million pictures has half of it


def as_path(value: Any, where: str) -> Path:
    """``value``, a text or path, as a path.

    Raises:
        UsageError: something else.
    """
    if not isinstance(value, str | os.PathLike):
        fix = "give a text or a pathlib.Path"
        raise UsageError(expected="a path", got=f"a {type(value).__name__}", fix=fix, where=where)
    return Path(value)


def open_regular(path: str | Path, most: int | None = None) -> BinaryIO:
    """``path``, open to be read in bytes.

    Args:
        most: bytes that it may have; None: any number, for what is read in pieces.

    Raises:
        OSError: a pipe, socket, device or folder; a larger file; whatever the system refuses, a NUL in the name too.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ENOTSUP, "a pipe, device or folder, and no regular file", str(path))
        if most is not None and status.st_size > most:
            raise OSError(
                errno.EFBIG, f"{format_size(status.st_size)} where at most {format_size(most)} are read", str(path)
            )
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_whole(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file; errors as of :func:`open_regular`."""
    with open_regular(path, most) as file:
        return file.read()


def decode_json(data: str | bytes) -> Any:
    """What JSON says, and no more: Python's own reader takes NaN, 1e400 and what is nested beyond its stack as well.

    Raises:
        ValueError: anything else; bytes that are no UTF-8, too.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("values nested too deeply") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"a number beyond all bounds, {digits[:20]}")
    return value
