"""A folder with its own table of labels: ``metadata.csv`` or ``.jsonl``, at the top or in each of train, val and test.

The layout of Hugging Face's ImageFolder; ``file_name`` starts from the folder of its table. Train, val and test with
one table each are read so under any name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from clip_fewshot.data.folder import walk
from clip_fewshot.data.json_labels import read_json_labels
from clip_fewshot.data.listing import PARTITIONS, VALIDATION, VALIDATION_JOINED, Entry, Listing
from clip_fewshot.data.names import escape, number, sort_key
from clip_fewshot.data.tables import is_table, read_csv

TABLE_NAMES = ("metadata.csv", "metadata.jsonl")


def list_split_tables(folder: Path) -> list[Path]:
    """The table at the top of ``folder``, else those in its train, val and test: under any name, one in each."""
    sides = [
        path for path in sorted(folder.iterdir(), key=sort_key) if path.name.lower() in PARTITIONS and path.is_dir()
    ]
    for places in ([folder], sides):
        there = [[place / name for name in TABLE_NAMES if (place / name).is_file()] for place in places]
        if any(there):
            return [tables[0] for tables in there if tables]
    tables = [[path for path in side.glob("*.[ct]sv") if is_table(path)] for side in sides]
    return [path for (path,) in tables] if all(len(own) == 1 for own in tables) else []


def read_split_tables(source: Path, columns: Mapping[str, str] | None = None) -> Listing:
    """The pictures of all tables; those of a part are on its side.

    Raises:
        DataError: as of a table that is read alone.
    """
    tree = walk(source)
    entries: list[Entry] = []
    warnings: list[str] = []
    tables = list_split_tables(source)
    for path in tables:
        listing = (read_json_labels if path.suffix == ".jsonl" else read_csv)(path, path.parent, columns)
        side = "" if path.parent == source else path.parent.name
        warnings += [*listing.warnings, *([VALIDATION_JOINED] if side.lower() in VALIDATION else [])]
        entries += [_placed(entry, side) for entry in listing.entries]
    named = {os.path.normpath(entry.path) for entry in entries}
    unread = [path for path in tree.pictures if os.path.normpath(source / path) not in named]
    if unread:
        warnings.append(f"not read: {number(len(unread), 'picture')} in no table, the first: {escape(unread[0])} ...")
    tree.others = [path for path in tree.others if source / path not in tables]
    return Listing(source, tuple(entries), warnings=(*tree.warnings(tree.texts), *warnings))


def _placed(entry: Entry, side: str) -> Entry:
    if not side:
        return entry
    return entry._replace(
        name=f"{side}/{entry.name}", where=f"{side}/{entry.where}", partition=PARTITIONS[side.lower()]
    )
