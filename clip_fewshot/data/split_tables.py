"""A folder with its own table of labels: ``metadata.csv`` or ``.jsonl``, at the top or in each of train, val and test.

The layout of Hugging Face's ImageFolder; ``file_name`` starts from the folder of its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clip_fewshot.data.json_labels import read_json_labels
from clip_fewshot.data.listing import PARTITIONS, VALIDATION, VALIDATION_JOINED, Entry, Listing
from clip_fewshot.data.names import sort_key
from clip_fewshot.data.tables import read_csv

TABLE_NAMES = ("metadata.csv", "metadata.jsonl")


def list_split_tables(folder: Path) -> list[Path]:
    """The tables at the top of ``folder``, else those in its train, val and test."""
    sides = sorted((path for path in folder.iterdir() if path.name.lower() in PARTITIONS), key=sort_key)
    for places in ([folder], sides):
        found = [place / name for place in places for name in TABLE_NAMES if (place / name).is_file()]
        if found:
            return found
    return []


def read_split_tables(source: Path, columns: Mapping[str, str] | None = None) -> Listing:
    """The pictures of all tables; those of a part are on its side.

    Raises:
        DataError: as of a table that is read alone.
    """
    entries: list[Entry] = []
    warnings: list[str] = []
    for path in list_split_tables(source):
        listing = (read_csv if path.suffix == ".csv" else read_json_labels)(path, path.parent, columns)
        side = "" if path.parent == source else path.parent.name
        warnings += [*listing.warnings, *([VALIDATION_JOINED] if side.lower() in VALIDATION else [])]
        entries += [_placed(entry, side) for entry in listing.entries]
    return Listing(source, tuple(entries), warnings=tuple(warnings))


def _placed(entry: Entry, side: str) -> Entry:
    if not side:
        return entry
    return entry._replace(
        name=f"{side}/{entry.name}", where=f"{side}/{entry.where}", partition=PARTITIONS[side.lower()]
    )
