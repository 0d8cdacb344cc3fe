"""The formats, and how a source is recognised as one of them.

Example:
    >>> import clip_fewshot as cf
    >>> {"folder", "list", "csv", "json", "coop", "draw", "parquet", "shards"} <= set(cf.FORMATS)
    True
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.data.caption_files import measure_shared_stems, read_pairs
from clip_fewshot.data.class_folders import find_labels, read_folder, read_leaves, read_unlabelled
from clip_fewshot.data.coop import is_coop, read_coop
from clip_fewshot.data.coop_draws import DRAW, read_draw
from clip_fewshot.data.folder import Tree, walk
from clip_fewshot.data.hugging_face import parquet_paths, read_parquet
from clip_fewshot.data.json_labels import LINES, parse_json, read_json_labels
from clip_fewshot.data.listing import Listing
from clip_fewshot.data.lists import is_captions, read_captions, read_list, refuse_parts
from clip_fewshot.data.names import escape
from clip_fewshot.data.numbered_lists import is_numbered, read_numbered
from clip_fewshot.data.parquet import PARQUET
from clip_fewshot.data.shards import SUFFIX, is_pattern, read_shards, shard_paths
from clip_fewshot.data.split_tables import list_split_tables, read_split_tables
from clip_fewshot.data.tables import is_table, read_csv
from clip_fewshot.data.tree_tables import find_tables, refuse_contradicted, refuse_unread
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.parts import find_part


@dataclass(frozen=True)
class Format:
    """How the files, labels and captions of a source are listed, before any picture is opened.

    A format of your own is passed as ``read_dataset(source, format=Format(my_listing, files=True))``.

    Args:
        read: source -> :class:`Listing`. Its entries stand in an order that depends on the content alone; all have
            labels, or captions, or none; what cannot be used is refused with DataError, every offender named.
        folders, files: which of them it reads.
        takes: of the options ``root``, ``columns`` and ``classes_at`` of ``read_dataset`` those that ``read`` has too.
    """

    read: Callable[..., Listing]
    folders: bool = False
    files: bool = False
    takes: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "folder": Format(read_folder, folders=True, takes=("classes_at",)),
    "leaves": Format(read_leaves, folders=True),
    "metadata": Format(read_split_tables, folders=True, takes=("columns",)),
    "pairs": Format(read_pairs, folders=True),
    "list": Format(read_list, files=True, takes=("root",)),
    "csv": Format(read_csv, files=True, takes=("root", "columns")),
    "numbered": Format(read_numbered, files=True, takes=("root",)),
    "json": Format(read_json_labels, files=True, takes=("root", "columns")),
    "coop": Format(read_coop, files=True, takes=("root",)),
    "draw": Format(read_draw, files=True, takes=("root",)),
    "captions": Format(read_captions, files=True, takes=("root",)),
    "shards": Format(read_shards, folders=True, files=True),
    "parquet": Format(read_parquet, folders=True, files=True, takes=("columns",)),
    "unlabelled": Format(read_unlabelled, folders=True),
}
BY_SUFFIX = {".csv": "csv", ".tsv": "csv", SUFFIX: "shards", DRAW: "draw", PARQUET: "parquet"}
BY_SUFFIX |= dict.fromkeys(LINES, "json")
TEXT_SUFFIXES = (".txt", ".lst", ".list", "")


def list_source(source: Path, format: str | Format | None, **options: Any) -> Listing:
    """The files of ``source``, read as ``format`` or as what it looks like.

    Args:
        options: ``root``, ``columns`` and ``classes_at``, of formats that take them; None where they are not given.

    Raises:
        UsageError: an unknown format, or an option that it does not take. DataError: a source that it does not read,
            or that is not there.
    """
    if not os.path.exists(source) and not is_pattern(source):
        fix = "check the path; digits and digits-wild come with the package"
        raise DataError(expected="an existing folder or file", got="nothing there", fix=fix, where=escape(source))
    if format is None and options.get("classes_at") is not None and os.path.isdir(source):
        format = "folder"
    given = recognise(source) if format is None else format
    found: object = find_part("formats", given, FORMATS) if isinstance(given, str) else given
    name = given if isinstance(given, str) else getattr(getattr(given, "read", None), "__name__", "")
    if not isinstance(found, Format):
        fix = "name a Format(read, folders=..., files=...)"
        raise UsageError(expected="a Format", got=f"a {type(found).__name__}", fix=fix, where="format")
    if not (found.folders if source.is_dir() else found.files):
        kind = "a folder" if source.is_dir() else "a file"
        raise DataError(
            expected=f"what format {name!r} reads", got=kind, fix="choose another format or path", where=escape(source)
        )
    given_options = {option: value for option, value in options.items() if value is not None and value != {}}
    for option in given_options.keys() - set(found.takes):
        expected, fix = "a list or table", "leave it out, or name the list or table of these pictures"
        if option == "classes_at":
            expected, fix = "a folder of folders", "leave it out, or name the folder itself"
        raise UsageError(expected=expected, got=f"the format {name!r}", fix=fix, where=f"`{option}`")
    return found.read(source, **given_options)


def recognise(source: Path) -> str:
    """The name of the format that ``source`` looks like."""
    if source.is_dir():
        return _recognise_tree(walk(source))
    suffix = source.suffix.lower()
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]
    if suffix == ".json":
        return "coop" if is_coop(parse_json(source)) else "json"
    if source.is_file() and suffix in TEXT_SUFFIXES:
        return _recognise_text(source)
    fix = "pass the folder of the pictures, a .csv, .tsv, .txt, .json or .pkl that names them, .tar or .parquet shards"
    raise DataError(expected="a folder or a file that lists pictures", got="neither", fix=fix, where=escape(source))


def _recognise_text(source: Path) -> str:
    if is_table(source):
        return "csv"
    if is_captions(source):
        return "captions"
    refuse_parts(source)
    return "numbered" if is_numbered(source) else "list"


def _recognise_tree(tree: Tree) -> str:
    own = list_split_tables(tree.root)
    if any(path.suffix == ".jsonl" or is_table(path) for path in own):
        return "metadata"
    if measure_shared_stems(tree.pictures, tree.texts) >= 0.5:
        return "pairs"
    if not tree.pictures and shard_paths(tree.root):
        return "shards"
    if not tree.pictures and parquet_paths(tree.root):
        return "parquet"
    if not tree.pictures:
        return "folder"
    tables = find_tables(tree)
    labels = _find_labels(tree, tables)
    if len({*labels.values()}) < 2:
        if own:
            return "metadata"
        refuse_unread(tree, tables)
        return "unlabelled"
    refuse_contradicted(tree, tables, labels)
    return "folder"


def _find_labels(tree: Tree, tables: list[Path]) -> dict[Path, str]:
    try:
        return find_labels(tree)
    except DataError as error:
        if not tables:
            raise
        fix = f"pass {escape(tree.root / tables[0])}, or {error.fix}"
        raise DataError(expected=error.expected, got=error.got, fix=fix, where=error.where) from error
