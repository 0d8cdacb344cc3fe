"""The picture files that a folder, table or list names, whether they are there or not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from clip_fewshot.data.base_folder import count_files, find_base
from clip_fewshot.data.columns import choose_columns
from clip_fewshot.data.folder import walk
from clip_fewshot.data.formats import list_source
from clip_fewshot.data.lists import list_paths
from clip_fewshot.data.names import escape
from clip_fewshot.data.tables import is_table, read_table
from clip_fewshot.errors import DataError


def picture_paths(
    source: str | Path,
    root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
) -> tuple[Path, ...]:
    """The picture files that ``source`` names, each once, in its order.

    Args:
        source: a folder, of which every picture is taken at whatever depth; a table (``, ; tab |``) with a column of
            pictures; or a text file with a path per line, with or without a label behind it.
        root, columns, format: as of :func:`~clip_fewshot.data.read.read_dataset`.

    Raises:
        DataError: no such source, or no picture in it. Whether the files are there is not looked at.
    """
    place, top = Path(source), None if root is None else Path(root)
    if format is not None:
        named = [entry.path for entry in list_source(place, format, root=top, columns=columns).entries]
    elif os.path.isdir(place):
        named = [place / path for path in walk(place).pictures]
    else:
        paths = _named_paths(place, top, columns or {})
        base, _ = find_base(place, paths, top)
        named = [Path(base.find(path) or base.folder / path) for path in paths]
    if not named:
        got = "none in it" if place.is_dir() else "an empty table"
        raise DataError(expected="pictures", got=got, fix="check the path", where=escape(place))
    return tuple(dict.fromkeys(named))


def _named_paths(source: Path, root: Path | None, columns: Mapping[str, str]) -> list[str]:
    """The paths in a table or list, as they are written."""
    if not columns and not is_table(source, bare=True):
        return [path for path in list_paths(source) if path]
    table = read_table(source, columns)
    chosen, _ = choose_columns(table, columns, lambda paths: count_files(source, paths, root), bare=True)
    return [path for path in table.column(chosen["image"]) if path]
