"""Pictures named by a folder or a table, not opened yet: what is embedded may be more than one wants to open twice."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from clip_fewshot.data.folder import walk
from clip_fewshot.data.naming import shown
from clip_fewshot.data.tables import COLUMNS, SEPARATORS, read_text
from clip_fewshot.errors import DataError


def picture_paths(source: str | Path) -> tuple[Path, ...]:
    """The picture files that ``source`` names, each once, in its order.

    Args:
        source: a folder, of which every picture is taken at whatever depth; a table (``, ; tab |``) with a column
            ``filepath``, ``image``, ``path``, ``image_path`` or ``file_name``; or a text file with a path per line.
            Relative paths start at the table's folder.

    Raises:
        DataError: no such source, or no picture in it. Whether the files are there is not looked at.
    """
    place = Path(source)
    if place.is_dir():
        named = [place / path for path in walk(place).pictures]
    else:
        named = [place.parent / path for path in _listed(read_text(place))]
    if not named:
        got = "none in it" if place.is_dir() else "an empty table"
        raise DataError("pictures", got, "check the path", shown(place))
    return tuple(dict.fromkeys(named))


def _listed(text: str) -> list[str]:
    first = text.split("\n", 1)[0]
    for separator in SEPARATORS:
        names = [name.strip().casefold() for name in next(csv.reader([first], delimiter=separator), [])]
        column = next((names.index(name) for name in COLUMNS["path"] if name in names), None)
        if column is not None:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
            next(rows)
            return [row[column].strip() for row in rows if len(row) > column and row[column].strip()]
    return [line.strip() for line in text.split("\n") if line.strip()]
