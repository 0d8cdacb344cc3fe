"""What a feature table says of its own columns, so that a changed number is not read as another feature.

Two marks stand in the file's own metadata, which a table that other programs have rewritten does not have: such a table
is read as it is. A page of the file has a checksum of its own besides, which pyarrow compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from clip_fewshot.errors import ArtifactError
from clip_fewshot.runtime.files import check_seal, hash_bytes, seal
from clip_fewshot.runtime.reading import decode_json

TABLE_KEY = b"clip_fewshot"  # in the schema, of what concerns all rows
WRITTEN, SUMS = b"clip_fewshot_written", b"clip_fewshot_sums"  # two, so that damage to one is seen


class TableSums:
    """The SHA-256 of each column of a table that is written part by part.

    Args:
        about: the metadata of its schema.
    """

    def __init__(self, about: Mapping[bytes, bytes] | None) -> None:
        self._about, self._columns = _digest_about(about), dict[str, Any]()

    def add(self, table: Any) -> None:
        """The next rows, an Arrow table."""
        for name in table.column_names:
            _feed(self._columns.setdefault(name, hashlib.sha256()), table.column(name))

    def metadata(self) -> dict[bytes, bytes]:
        """For the file."""
        columns = {name: digest.hexdigest() for name, digest in self._columns.items()}
        return {WRITTEN: b"2", SUMS: json.dumps(seal({"about": self._about, "columns": columns})).encode()}


def check_sums(table: Any, names: list[str], metadata: Mapping[bytes, bytes] | None, where: Path) -> None:
    """Refuse a table whose columns are not those that were written.

    Args:
        table: what was read, some columns or all, and the metadata of its schema.
        names: of all columns in the file.
        metadata: of the file; without both marks another program has written it, and there is nothing to compare.

    Raises:
        ArtifactError: other content, or one mark alone.
        ValueError: a mark that is no JSON.
    """
    held = metadata or {}
    if WRITTEN not in held and SUMS not in held:
        return
    sums = check_seal(decode_json(held.get(SUMS, b"null")), str(where))
    found = {name: hashlib.sha256() for name in table.column_names}
    for name, digest in found.items():
        _feed(digest, table.column(name))
    same = all(digest.hexdigest() == sums["columns"].get(name) for name, digest in found.items())
    if (
        not same
        or held.get(WRITTEN) != b"2"
        or names != [*sums["columns"]]
        or sums["about"] != _digest_about(table.schema.metadata)
    ):
        fix = "restore it from a copy, or embed again"
        raise ArtifactError(expected="a table as it was written", got="a changed one", fix=fix, where=str(where))


def _digest_about(metadata: Mapping[bytes, bytes] | None) -> str:
    return hash_bytes((metadata or {}).get(TABLE_KEY, b""))


def _feed(digest: Any, column: Any) -> None:
    for rows in map(_rows, column.chunks):
        digest.update(b"".join(rows))


def _rows(chunk: Any) -> Iterator[bytes]:
    """Each row as its length and its bytes: a text's UTF-8, a list's numbers."""
    if hasattr(chunk, "offsets"):
        values, width = (
            memoryview(chunk.flatten().to_numpy(zero_copy_only=False).tobytes()),
            chunk.type.value_type.bit_width // 8,
        )
        first = chunk.offsets[0].as_py()
        for start, end in pairwise(chunk.offsets.to_numpy()):
            yield int(end - start).to_bytes(8, "little") + values[(start - first) * width : (end - first) * width]
        return
    for text in chunk.to_pylist():
        data = str(text).encode()
        yield len(data).to_bytes(8, "little") + data
