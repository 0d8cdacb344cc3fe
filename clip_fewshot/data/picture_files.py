"""The bytes of a picture: of a regular file, or inside a tar or Parquet file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clip_fewshot.data.decode_memory import MEMORY, PICTURE_MEMORY
from clip_fewshot.data.names import escape
from clip_fewshot.data.parquet import cell_bytes
from clip_fewshot.data.picture_kinds import ImageError
from clip_fewshot.data.tar import file_bytes
from clip_fewshot.errors import DataError

BYTE_LIMIT = PICTURE_MEMORY
SMALL_FILE = 1 << 24  # bytes; each thread may read one beside the memory that they share


@contextmanager
def reading(path: str | Path) -> Iterator[bytes]:
    """The bytes of the file at ``path``; a large one takes the memory of a whole picture from the threads' budget."""
    try:
        large = os.stat(path).st_size > SMALL_FILE
    except (OSError, ValueError):  # in an archive, or an error that read_regular explains
        large = False
    with MEMORY.hold(PICTURE_MEMORY if large else 0):
        yield read_regular(path)


def read_regular(path: str | Path) -> bytes:
    """The bytes of a regular file, or of one in a tar or Parquet file; pipes and devices are refused, not waited on."""
    name = escape(path)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        inside = _from_archive(Path(path))
        if inside is not None:
            return inside
        raise ImageError(
            "missing", expected="a picture", got="no such file", fix="check the path", where=name
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError(
            "unreadable", expected="a readable file", got=str(error), fix="check its permissions", where=name
        ) from error
    try:
        _check_regular(os.fstat(handle), name)
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise ImageError(
            "unreadable", expected="a readable file", got=str(error), fix="check the disk", where=name
        ) from error
    finally:
        os.close(handle)


def _from_archive(path: Path) -> bytes | None:
    try:
        inside = file_bytes(path, BYTE_LIMIT)
        return cell_bytes(path, BYTE_LIMIT) if inside is None else inside
    except DataError as error:
        raise ImageError(
            "unreadable", expected=error.expected, got=error.got, fix=error.fix, where=error.where
        ) from error


def _check_regular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(
            "not-regular", expected="a regular file", got="a pipe, device or folder", fix="remove it", where=name
        )
    if status.st_size > BYTE_LIMIT:
        raise ImageError(
            "too-large",
            expected=f"at most {BYTE_LIMIT:,} bytes",
            got=f"{status.st_size:,}",
            fix="shrink it",
            where=name,
        )
