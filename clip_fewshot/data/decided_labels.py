"""Which class each picture was given, as another tool hands it back: pictures are known by their content."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from clip_fewshot.data.columns import Table, choose_columns
from clip_fewshot.data.json_labels import LINES, read_json_table
from clip_fewshot.data.names import escape
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.tables import TABLE_SUFFIXES, read_table
from clip_fewshot.errors import DataError

DIGEST = "digest"  # column with the SHA-256 of each picture's file


def read_decided_labels(source: Path) -> dict[str, str]:
    """Hex SHA-256 of a picture's file -> its class, "" for none.

    Of a table or JSON that has kept the column ``digest`` no picture is opened; else the files are found as
    :func:`read_dataset` finds them, wherever the tool has put them, and hashed.

    Args:
        source: a folder with a folder per class, a table, or JSON as COCO, FiftyOne and Label Studio write it.

    Raises:
        DataError: a source that cannot be used, or one picture under two classes.
    """
    if source.suffix.lower() in (*TABLE_SUFFIXES, ".json", *LINES) and source.is_file():
        table = read_table(source, {}) if source.suffix.lower() in TABLE_SUFFIXES else read_json_table(source)
        if DIGEST in table.names:
            return _read_column(table)
    pictures = read_dataset(source, classes_at=1 if source.is_dir() else None)
    return dict(zip(pictures.digests, pictures.label_space.decode(pictures.required_labels()), strict=True))


def _read_column(table: Table) -> dict[str, str]:
    chosen, _ = choose_columns(table, {}, len)
    if "label" not in chosen:
        fix = "export the labels too"
        raise DataError(expected="a column of classes", got="none", fix=fix, where=escape(table.source))
    found = dict[str, str]()
    for where, cells in table.rows:
        digest, label = cells[table.names.index(DIGEST)], cells[chosen["label"]]
        if not re.fullmatch("[0-9a-f]{64}", digest):
            fix = "restore the column, or leave it out"
            raise DataError(
                expected="64 hex digits", got=repr(escape(digest[:80])), fix=fix, where=f"{where}: {DIGEST}"
            )
        if found.setdefault(digest, label) != label:
            got, fix = f"{escape(found[digest])!r} and {escape(label)!r}", "keep one row of it"
            raise DataError(expected="one class a picture", got=got, fix=fix, where=where)
    return found


def holds_labels(content: object) -> bool:
    """Whether this is JSON of pictures with labels, and no saved review."""
    coco = isinstance(content, Mapping) and bool({"annotations", "labels"} & content.keys())
    return isinstance(content, list) or coco
