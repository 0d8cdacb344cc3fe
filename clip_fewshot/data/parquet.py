"""Pictures inside Parquet files, as Hugging Face's ``datasets`` keeps them: a row is a picture, its class, its texts.

``train-00000-of-00001.parquet/image/17`` is the path of a picture like any other: column ``image``, row 17. Nothing is
extracted; a group of rows is read at a time, in parts, so that a small file cannot become a huge one in memory. pyarrow
is imported here alone, when it is needed.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

from clip_fewshot.data.names import escape
from clip_fewshot.errors import DataError, ResourceError
from clip_fewshot.runtime.reading import open_regular
from clip_fewshot.runtime.units import format_size

PARQUET = ".parquet"
OLDEST_PYARROW = 18  # before 15, reading a schema could run code (CVE-2023-47248)
GROUP_LIMIT = 1 << 30  # bytes of the pictures of one group of rows; datasets writes 100 rows, or 30 MB
READ_ROWS = 16  # pictures decompressed at a time
KEPT_GROUPS = 2
_reading = Lock()  # threads that ask for rows of one group would each read all of it


def import_pyarrow() -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        ResourceError: not installed, or too old.
    """
    fix = f"pip install 'clip-fewshot[parquet]', which is pyarrow {OLDEST_PYARROW} or later"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ResourceError(expected="the package pyarrow", got=str(error), fix=fix, where="Parquet") from error
    if int(pyarrow.__version__.split(".")[0]) < OLDEST_PYARROW:
        raise ResourceError(expected="a newer pyarrow", got=pyarrow.__version__, fix=fix, where="Parquet")
    return pyarrow, pyarrow.parquet


def is_cell(path: Path) -> bool:
    """Whether a path leads into a Parquet file; such a picture has no extension."""
    return path.name.isdecimal() and path.parent.parent.suffix.lower() == PARQUET


def cell_bytes(path: Path, limit: int) -> bytes | None:
    """The picture at a path as above; None where it leads into no Parquet file.

    Raises:
        DataError: no such column or row, no bytes in it, more than ``limit``; a damaged file.
    """
    file, row = path.parent.parent, path.name
    if not is_cell(path) or not os.path.isfile(file):
        return None
    status = os.stat(file)
    column, key = path.parent.name, (file, status.st_size, status.st_mtime_ns)
    with _reading:
        ends = _group_ends(*key)
        group = bisect_right(ends, int(row))
        cells = _group_cells(*key, column, group) if group < len(ends) else ()
    place = int(row) - (ends[group - 1] if group else 0)
    data = cells[place] if place < len(cells) else None
    if data is None:
        got, fix = "none in this row", "embed the files when the table is written (datasets: embed_external_files)"
        raise DataError(expected="the bytes of a picture", got=got, fix=fix, where=escape(path))
    if len(data) > limit:
        raise DataError(
            expected=f"at most {format_size(limit)}", got=format_size(len(data)), fix="shrink it", where=escape(path)
        )
    return data


@lru_cache(maxsize=512)
def _group_ends(file: Path, size: int, changed: int) -> list[int]:
    """The number of rows up to the end of each group. ``size`` and ``changed`` make a rewritten file another one."""
    _, parquet = import_pyarrow()
    with explain_damage(file):
        metadata = parquet.read_metadata(file)
        return list(accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)))


@lru_cache(maxsize=KEPT_GROUPS)
def _group_cells(file: Path, size: int, changed: int, column: str, group: int) -> tuple[bytes | None, ...]:
    found: list[bytes | None] = []
    taken = 0
    for rows in read_rows(file, [column], READ_ROWS, group):
        for (cell,) in rows:
            data = cell.get("bytes") if isinstance(cell, dict) else cell
            taken += len(data or b"")
            found.append(data if isinstance(data, bytes) else None)
        if taken > GROUP_LIMIT:
            expected, fix = f"at most {format_size(GROUP_LIMIT)} in a group of rows", "write it with smaller row groups"
            raise DataError(expected=expected, got="more", fix=fix, where=escape(file))
    return tuple(found)


def read_rows(
    file: Path, columns: Sequence[str], rows: int, group: int | None = None
) -> Iterator[list[tuple[Any, ...]]]:
    """The cells of some columns as plain Python values, ``rows`` at a time.

    Args:
        group: of rows; None: all.
    """
    _, parquet = import_pyarrow()
    groups = None if group is None else [group]
    with explain_damage(file), parquet.ParquetFile(file, page_checksum_verification=True) as opened:
        for batch in opened.iter_batches(rows, columns=list(columns), row_groups=groups, use_threads=False):
            yield list(zip(*(batch.column(name).to_pylist() for name in columns), strict=True))


@contextmanager
def explain_damage(file: Path) -> Iterator[None]:
    """Errors of pyarrow as DataError that names the file; what is no regular file is refused before the block."""
    arrow, _ = import_pyarrow()
    try:
        with open_regular(file):  # pyarrow would wait for a pipe
            yield
    except (arrow.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        got = escape(str(error).split("\n")[0][:200])
        fix = "make or download it again"
        raise DataError(expected="a whole Parquet file", got=got, fix=fix, where=escape(file)) from error
