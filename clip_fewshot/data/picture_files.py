"""The bytes of a picture: of a regular file, or inside a tar or Parquet file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clip_fewshot.data.decode_memory import MEMORY, PICTURE_MEMORY
from clip_fewshot.data.names import escape
from clip_fewshot.data.parquet import cell_bytes
from clip_fewshot.data.picture_kinds import ImageError
from clip_fewshot.data.tar import file_bytes
from clip_fewshot.errors import DataError
from clip_fewshot.runtime.reading import read_whole
from clip_fewshot.runtime.units import format_size

BYTE_LIMIT = PICTURE_MEMORY
REFUSED = {  # error of the system -> reason, what was expected, and what to do
    errno.ENOTSUP: ("not-regular", "a regular file", "remove it"),
    errno.EFBIG: ("too-large", f"at most {format_size(BYTE_LIMIT)}", "shrink it"),
}
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
        return read_whole(path, BYTE_LIMIT)
    except (FileNotFoundError, NotADirectoryError) as error:
        inside = _from_archive(Path(path))
        if inside is not None:
            return inside
        raise ImageError(
            "missing", expected="a picture", got="no such file", fix="check the path", where=name
        ) from error
    except OSError as error:
        reason, expected, fix = REFUSED.get(
            error.errno or 0, ("unreadable", "a readable file", "check its permissions")
        )
        raise ImageError(reason, expected=expected, got=str(error.strerror), fix=fix, where=name) from error


def _from_archive(path: Path) -> bytes | None:
    try:
        inside = file_bytes(path, BYTE_LIMIT)
        return cell_bytes(path, BYTE_LIMIT) if inside is None else inside
    except DataError as error:
        raise ImageError(
            "unreadable", expected=error.expected, got=error.got, fix=error.fix, where=error.where
        ) from error
