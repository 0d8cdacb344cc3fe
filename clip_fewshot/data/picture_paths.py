"""The picture files that a folder, table or list names, whether they are there or not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from clip_fewshot.data.base_folder import count_files, find_base
from clip_fewshot.data.columns import choose_columns
from clip_fewshot.data.folder import walk
from clip_fewshot.data.formats import TEXT_SUFFIXES, list_source
from clip_fewshot.data.listing import refuse_any
from clip_fewshot.data.lists import list_paths
from clip_fewshot.data.names import escape
from clip_fewshot.data.tables import TABLE_SUFFIXES, is_table, read_table
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.reading import as_path


def picture_paths(
    source: str | Path,
    root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
) -> tuple[Path, ...]:
    r"""The picture files that ``source`` names, each once, in its order.

    Args:
        source: a folder, of which every picture is taken at whatever depth; a table (``, ; tab |``) with a column of
            pictures; or a text file with a path per line, with or without a label behind it.
        root, columns, format: as of :func:`~clip_fewshot.data.read.read_dataset`.

    Raises:
        DataError: no such source, or no picture in it. Whether the files are there is not looked at.

    Example:
        >>> from pathlib import Path
        >>> import clip_fewshot as cf
        >>> Path("list.csv").write_text("image,label\ncat.jpg,cat\ndog.jpg,dog\n")
        36
        >>> [path.name for path in cf.picture_paths("list.csv")]
        ['cat.jpg', 'dog.jpg']
    """
    return list_pictures(source, root, columns, format)[0]


def list_pictures(
    source: str | Path,
    root: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    format: str | None = None,
) -> tuple[tuple[Path, ...], list[str]]:
    """The paths of :func:`picture_paths`, and what was passed over on the way."""
    place, top, notes = as_path(source, "source"), None if root is None else Path(root), list[str]()
    if format is not None or (os.path.isfile(place) and place.suffix.lower() not in (*TEXT_SUFFIXES, *TABLE_SUFFIXES)):
        listing = list_source(place, format, root=top, columns=columns)
        named, notes = [entry.path for entry in listing.entries], [*listing.warnings]
    elif os.path.isdir(place):
        for option in (name for name, value in (("root", root), ("columns", columns)) if value):
            fix = "leave it out, or name the list or table of these pictures"
            raise UsageError(expected="a list or table", got="a folder", fix=fix, where=f"`{option}`")
        tree = walk(place)
        named, notes = [place / path for path in tree.pictures], tree.warnings(tree.texts)
    else:
        paths = _named_paths(place, top, columns or {})
        base, _ = find_base(place, paths, top)
        named = [Path(base.find(path) or base.folder / path) for path in paths]
    if not named:
        got = "none in it" if os.path.isdir(place) else "an empty table"
        raise DataError(expected="pictures", got=got, fix="check the path", where=escape(place))
    return tuple(dict.fromkeys(named)), notes


def _named_paths(source: Path, root: Path | None, columns: Mapping[str, str]) -> list[str]:
    """The paths in a table or list, as they are written."""
    if not columns and not is_table(source, bare=True):
        return [path for path in list_paths(source) if path]
    table = read_table(source, columns)
    chosen, _ = choose_columns(table, columns, lambda paths: count_files(source, paths, root), bare=True)
    blank = [f"{where}: empty path" for where, cells in table.rows if not cells[chosen["image"]]]
    refuse_any([*table.problems, *blank], "rows that name a picture", "correct them", source)
    return table.column(chosen["image"])
