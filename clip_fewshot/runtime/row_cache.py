"""Rows on disk, each under the key of what it was computed from: computed once, checked whenever it is read.

A shelf is a folder of two files that only grow: ``rows.bin``, rows of one size, and ``index.bin``, a record of two
SHA-256 per row (of its key and of its bytes). A row counts once its record is whole and its bytes agree with it, so
a kill, a full disk or a power cut can lose rows but never makes a row wrong; nothing needs to be flushed to the disk.
We rejected one file per row, because sixteen thousand pictures at six depths are a hundred thousand files. We rejected
one file per set of pictures, because a kill loses half of it and because sets overlap.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from clip_fewshot.errors import ArtifactError, ResourceError
from clip_fewshot.runtime.files import (
    cache_root,
    check_seal,
    hash_bytes,
    hold_file,
    read_json,
    remove_half_files,
    seal,
    write_json,
)
from clip_fewshot.runtime.reading import open_regular
from clip_fewshot.runtime.units import format_size
from clip_fewshot.types import IndexArray

ROWS_FILE, INDEX, ABOUT, ROWS_LOCK = "rows.bin", "index.bin", "about.json", ".lock"
DIGEST_BYTES = 32  # bytes of a SHA-256
FORMAT = 1
DISK_RESERVE = 1 << 30  # bytes of disk that a cache leaves free

C = TypeVar("C", bound=Hashable)  # the name of a column
Batch = tuple[IndexArray, Mapping[C, NDArray[Any]]]  # positions among the keys, and their rows in each column


class RowCache(Generic[C]):
    """Rows of one or more columns under the same keys: :meth:`rows` computes what is not held yet.

    Args:
        kind: folder below :func:`cache_root`, such as "pixels".
        columns: name -> JSON values that decide a column's rows besides their keys: weights, size, depth.
    """

    def __init__(self, kind: str, columns: Mapping[C, Mapping[str, Any]]) -> None:
        self.kind, self.columns = kind, columns
        self._shelves: dict[C, RowFile] = {}
        self._refused: set[C] = set()  # columns that the disk took no rows of: no further attempt is made

    def rows(self, keys: Sequence[str], compute: Callable[[IndexArray], Iterable[Batch[C]]]) -> dict[C, CachedRows]:
        """Find, read what is held, compute what is missing, keep it.

        Args:
            compute: (m,) positions of missing keys, each key once -> their rows in batches; each batch is kept before
                the next is computed, so that a kill costs one. Not called where nothing is missing.

        Returns:
            Each column's rows, which are on the disk; of what the disk refused, with a warning, in memory.
        """
        missing = self.missing(keys)
        loose: dict[C, dict[str, NDArray[Any]]] = {column: {} for column in self.columns}
        for positions, values in compute(missing) if len(missing) else ():
            computed = [keys[i] for i in positions]
            for column, rows in values.items():
                if not self._keep(column, computed, rows):
                    loose[column].update(zip(computed, rows, strict=True))
        return {column: CachedRows(self._shelves[column], keys, loose[column]) for column in self.columns if len(keys)}

    def missing(self, keys: Sequence[str]) -> IndexArray:
        """(m,) ascending positions of keys that some column lacks, each key where it first stands."""
        lacking = np.zeros(len(keys), dtype=bool)
        for column in self.columns:
            shelf = self._shelf(column)
            lacking |= True if shelf is None else shelf.find(keys) < 0
        first = {keys[i]: i for i in reversed(np.flatnonzero(lacking).tolist())}
        return np.array(sorted(first.values()), dtype=np.int64)

    def _shelf(self, column: C) -> RowFile | None:
        """None where no process has begun it; another one may have begun it since the last time."""
        if column not in self._shelves:
            shelf = RowFile.open_existing(self.kind, self.columns[column])
            if shelf is None:
                return None
            self._shelves[column] = shelf
        return self._shelves[column]

    def _keep(self, column: C, keys: Sequence[str], rows: NDArray[Any]) -> bool:
        if column not in self._shelves:
            self._shelves[column] = RowFile(self.kind, self.columns[column], rows.shape[1:], rows.dtype)
        if column not in self._refused and not self._shelves[column].append(keys, rows):
            self._refused.add(column)
        return column not in self._refused


@dataclass(frozen=True)
class CachedRows:
    """The rows of one column in the order of ``keys``.

    Attributes:
        shelf: where they are, see :meth:`places`.
        loose: those that are in memory only, by key.
    """

    shelf: RowFile
    keys: Sequence[str]
    loose: Mapping[str, NDArray[Any]]

    def places(self) -> IndexArray:
        """(n,) place on the shelf, -1 where it is in memory only."""
        return self.shelf.find(self.keys)

    def read(self) -> NDArray[Any]:
        """(n, *shape) copies."""
        places = self.places()
        if not self.loose:
            return self.shelf.read(places)
        values = np.empty((len(self.keys), *self.shelf.shape), self.shelf.dtype)
        values[places >= 0] = self.shelf.read(places[places >= 0])
        for i in np.flatnonzero(places < 0).tolist():
            values[i] = self.loose[self.keys[i]]
        return values


class RowFile:
    """Rows of one shape and dtype, kept between runs and shared by processes.

    Args:
        kind: folder below :func:`cache_root`, such as "pixels".
        about: JSON values that decide the rows' content besides their keys: weights, size, depth.
        shape: of one row.
        dtype: of the rows.
    """

    def __init__(self, kind: str, about: Mapping[str, Any], shape: Sequence[int], dtype: DTypeLike) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.row_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        self.folder = _folder(kind, about)
        self._about = {"about": dict(about), "shape": list(self.shape), "dtype": self.dtype.str}
        self._declared = False
        self._places: dict[bytes, int] = {}
        self._checksums: list[bytes] = []
        self._sound: set[int] = set()

    @classmethod
    def open_existing(cls, kind: str, about: Mapping[str, Any]) -> RowFile | None:
        """The shelf of that content, whatever its shape; None where none was begun."""
        path = _folder(kind, about) / ABOUT
        try:
            content = check_seal(read_json(path), str(path)) if os.path.isfile(path) else None
            return None if content is None else cls(kind, about, content["shape"], content["dtype"])
        except (ArtifactError, KeyError, TypeError, ValueError, SyntaxError):  # damaged (NumPy parses it): begun again
            return None

    @property
    def path(self) -> str:
        """The file of rows, row i at ``i * row_bytes``."""
        return str(self.folder / ROWS_FILE)

    def find(self, keys: Sequence[str]) -> IndexArray:
        """(n,) place of each key's row, -1 where none is held. Rows are checked the first time they are found."""
        self._refresh()
        found = np.array([self._places.get(_key_digest(key), -1) for key in keys], dtype=np.int64)
        damaged = self._check({place for place in found.tolist() if place >= 0} - self._sound)
        return np.where(np.isin(found, damaged), -1, found) if damaged else found

    def read(self, places: IndexArray) -> NDArray[Any]:
        """(n, *shape) copies of rows that :meth:`find` found."""
        if not len(places):
            return np.empty((0, *self.shape), self.dtype)
        return np.asarray(self.map_rows()[places])

    def map_rows(self) -> NDArray[Any]:
        """(rows, *shape) read-only view of the whole file; pages are shared by all processes that read it."""
        count = os.path.getsize(self.folder / ROWS_FILE) // self.row_bytes
        return np.memmap(self.folder / ROWS_FILE, self.dtype, "r", shape=(count, *self.shape))

    def append(self, keys: Sequence[str], rows: NDArray[Any]) -> bool:
        """Keep (n, *shape) rows; of a key kept twice the later row counts.

        Returns:
            False, with a warning, where the disk refuses: what is cached can be computed again.
        """
        data = np.ascontiguousarray(rows, self.dtype)
        records = b"".join(_key_digest(key) + _digest(row) for key, row in zip(keys, data, strict=True))
        try:
            self._make_room(data.nbytes)
            with hold_file(self.folder / ROWS_LOCK):
                held = _size(self.folder / INDEX) // (2 * DIGEST_BYTES)
                _extend(self.folder / ROWS_FILE, held * self.row_bytes, data.reshape(-1).view(np.uint8).data)
                _extend(self.folder / INDEX, held * 2 * DIGEST_BYTES, records)
        except (OSError, ResourceError) as error:
            text = f"not cached, and so computed again next time: {error} (CLIP_FEWSHOT_CACHE says where)"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
            return False
        self._refresh()
        self._sound |= {self._places[_key_digest(key)] for key in keys}
        return True

    def _make_room(self, needed: int) -> None:
        if not self._declared:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_half_files(self.folder)
            write_json(self.folder / ABOUT, seal(self._about))
            self._declared = True
        free = shutil.disk_usage(self.folder).free
        if free < needed + DISK_RESERVE:
            expected = f"room for {format_size(needed)} beside the {format_size(DISK_RESERVE)} that stay free"
            fix = "set CLIP_FEWSHOT_CACHE to a folder on another disk"
            raise ResourceError(expected=expected, got=f"{format_size(free)} free", fix=fix, where=str(self.folder))

    def _refresh(self) -> None:
        """Read the records that were added since the last time."""
        known = len(self._checksums)
        try:
            with open_regular(self.folder / INDEX) as file:
                file.seek(known * 2 * DIGEST_BYTES)
                added = file.read()
        except OSError:  # not there yet, or no file: what cannot be read is computed again
            return
        for i in range(len(added) // (2 * DIGEST_BYTES)):
            record = added[i * 2 * DIGEST_BYTES : (i + 1) * 2 * DIGEST_BYTES]
            self._places[record[:DIGEST_BYTES]] = known + i
            self._checksums.append(record[DIGEST_BYTES:])

    def _check(self, places: set[int]) -> list[int]:
        """The places among them whose bytes are not those that were written."""
        if not places:
            return []
        rows = self.map_rows() if _size(self.folder / ROWS_FILE) >= self.row_bytes else ()
        damaged = [i for i in places if i >= len(rows) or _digest(rows[i]) != self._checksums[i]]
        self._sound |= places - set(damaged)
        return damaged


def _folder(kind: str, about: Mapping[str, Any]) -> Path:
    content = json.dumps({"format": FORMAT, **about}, sort_keys=True, allow_nan=False)
    return cache_root() / kind / hash_bytes(content.encode())[:32]


def _key_digest(key: str) -> bytes:
    return _digest(key.encode("utf-8", "surrogatepass"))  # a text may hold a name from a disk, which is any bytes


def _digest(data: Any) -> bytes:
    return hashlib.sha256(data).digest()


def _size(path: Any) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _extend(path: Any, start: int, data: Any) -> None:
    """Write ``data`` at ``start`` of a file whose content behind it, if any, was left by a kill."""
    with open(path, "r+b" if os.path.exists(path) else "w+b") as file:
        file.truncate(start)
        file.seek(start)
        file.write(data)
