"""Lists and tables inside a tree of pictures: where they say the classes, the names of folders do not."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from clip_fewshot.data.folder import Tree
from clip_fewshot.data.names import escape, list_first
from clip_fewshot.data.tables import TABLE_SUFFIXES, is_table, read_csv
from clip_fewshot.data.text_files import read_text
from clip_fewshot.errors import DataError

LISTS = (*TABLE_SUFFIXES, ".json", ".jsonl", ".ndjson", ".txt", ".lst", ".list")
MOST_TABLES = 100  # looked into, the uppermost first
LOOKED_AT = 100_000  # bytes of each


def find_tables(tree: Tree) -> list[Path]:
    """The files of a tree that name pictures in it, the uppermost and train's first; a text of one picture is none."""
    stems, names = {path.stem for path in tree.pictures}, {path.name for path in tree.pictures}
    files = [p for p in (*tree.others, *tree.texts) if p.suffix.lower() in LISTS and p.stem not in stems]
    files.sort(key=lambda path: (len(path.parts), "train" not in path.stem.casefold()))
    return [path for path in files[:MOST_TABLES] if _names(tree, path, names)]


def _names(tree: Tree, path: Path, pictures: set[str]) -> bool:
    try:
        text = read_text(tree.root / path, LOOKED_AT)
    except DataError:
        return False
    words = (PurePosixPath(word).name for word in re.split(r"[\s,;|\"'\\]+", text))
    return not pictures.isdisjoint(words) or (
        path.suffix.lower() in TABLE_SUFFIXES and is_table(tree.root / path, bare=True)
    )


def refuse_unread(tree: Tree, tables: list[Path]) -> None:
    """Stop where the folders name no classes, and ``tables`` may."""
    if tables:
        got = f"pictures without class folders beside {escape(tables[0])}"
        fix = f"pass {escape(tree.root / tables[0])}, or `format`=unlabelled if there are no classes"
        expected = "a folder per class, or a file that lists the pictures"
        raise DataError(expected=expected, got=got, fix=fix, where=escape(tree.root))


def refuse_contradicted(tree: Tree, tables: list[Path], label_of: Mapping[Path, str]) -> None:
    """Stop where a table gives the pictures of one folder several classes.

    Args:
        label_of: picture -> its class by its folder, both as in the tree.
    """
    for path in tables:
        said = _labels(tree.root / path)
        found: dict[str, set[str]] = defaultdict(set)
        for picture, label in label_of.items():
            if (other := said.get(os.path.abspath(tree.root / picture))) is not None:
                found[label].add(other)
        torn = [
            f"{escape(label)}: {', '.join(sorted(map(escape, others)))}"
            for label, others in found.items()
            if len(others) > 1
        ]
        if torn:
            got = f"{escape(path)}, which divides the pictures otherwise:{list_first(torn)}\n"
            fix = f"pass {escape(tree.root / path)}, or `format`=folder if the folders are the classes"
            raise DataError(expected="folders that name the classes", got=got, fix=fix, where=escape(tree.root))


def _labels(table: Path) -> dict[str, str]:
    """Picture -> class, of a table that names its classes and can be read."""
    if table.suffix.lower() not in TABLE_SUFFIXES or not is_table(table):
        return {}
    try:
        return {
            os.path.abspath(entry.path): entry.label for entry in read_csv(table).entries if entry.label is not None
        }
    except DataError:
        return {}
