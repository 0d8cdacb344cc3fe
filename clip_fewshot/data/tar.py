"""Files inside tar archives, read where they lie: ``photos.tar/dog.jpg`` is a path like any other.

An archive is listed once, and a file is then one read at its place. Nothing is extracted. We rejected
streaming an archive from end to end, as the ``webdataset`` package does: its order is that of the files, shuffled only
within a buffer, so an epoch is not a function of a seed, and a resumed run reads again up to its place.
"""

from __future__ import annotations

import os
import tarfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from clip_fewshot.data.names import escape, number
from clip_fewshot.errors import DataError
from clip_fewshot.runtime.reading import open_regular
from clip_fewshot.runtime.units import format_size

KEPT = 512  # archives whose listings stay in memory; ten thousand files take 3 MB


class Place(NamedTuple):
    """Where a file's bytes lie in its archive."""

    offset: int
    size: int


class Contents(NamedTuple):
    """What an archive holds.

    Attributes:
        files: regular files by name, in the archive's order.
        refused: entries that are no regular files, or whose names lead out of the archive.
    """

    files: dict[str, Place]
    refused: int


def contents(archive: Path) -> Contents:
    """The files of an uncompressed tar archive, by its headers; kept until the archive changes.

    Raises:
        DataError: no such archive, or one that is compressed, damaged, or ends early.
    """
    try:
        status = os.stat(archive)
        return _listed(archive, status.st_size, status.st_mtime_ns)
    except (tarfile.TarError, OSError, ValueError, MemoryError) as error:
        fix = "make or download it again; unpack .tar.gz to .tar"
        expected = "a whole, uncompressed tar archive"
        raise DataError(expected=expected, got=str(error), fix=fix, where=escape(archive)) from error


def file_bytes(path: Path, limit: int) -> bytes | None:
    """The bytes of a file whose path leads into an archive; None where it leads into none, or to no file there.

    Raises:
        DataError: the archive cannot be read, or the file has more than ``limit`` bytes.
    """
    archive = next(
        (parent for parent in path.parents if parent.suffix.lower() == ".tar" and os.path.isfile(parent)), None
    )
    place = None if archive is None else contents(archive).files.get(path.relative_to(archive).as_posix())
    if archive is None or place is None:
        return None
    if place.size > limit:
        raise DataError(
            expected=f"at most {format_size(limit)}", got=format_size(place.size), fix="shrink it", where=escape(path)
        )
    try:
        with open_regular(archive) as file:
            file.seek(place.offset)
            return file.read(place.size)
    except OSError as error:
        got = str(error)
        raise DataError(expected="a readable archive", got=got, fix="check the disk", where=escape(path)) from error


@lru_cache(maxsize=KEPT)
def _listed(archive: Path, size: int, changed: int) -> Contents:
    """``size`` and ``changed`` make a rewritten archive another one. A name that comes twice means its last file."""
    found, refused = dict[str, Place](), 0
    with (
        open_regular(archive),
        tarfile.open(archive, "r:") as tar,
    ):  # "r:" never decompresses, so that no small file becomes a huge one
        while (member := tar.next()) is not None:
            name = PurePosixPath(member.name)
            if member.type not in tarfile.REGULAR_TYPES or member.issparse() or _leads_out(name):
                refused += not member.isdir()
            else:
                found[name.as_posix()] = Place(member.offset_data, member.size)
        end = tar.offset
    with open_regular(archive) as file:  # tarfile takes a damaged header for the end and says nothing
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"a damaged header at byte {end:,}, behind {number(len(found), 'file')}")
    return Contents(found, refused)


def _leads_out(name: PurePosixPath) -> bool:
    """Joined to the archive's path such a name would be a path outside of it, on some system."""
    return name.is_absolute() or ".." in name.parts or any(mark in str(name) for mark in "\\:\0")
