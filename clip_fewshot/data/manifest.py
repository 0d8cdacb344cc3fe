"""From the rows of a list, table or split file to entries: where the files lie, and whether each row can be meant."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from clip_fewshot.data.base_folder import BaseFolder, find_base, is_there
from clip_fewshot.data.listing import Entry, Listing, refuse_any
from clip_fewshot.data.names import escape, number


class ManifestRow(NamedTuple):
    """What one row says. ``where`` names it in errors, as ``labels.csv:17``."""

    where: str
    path: str
    label: str | None = None
    caption: str | None = None
    partition: str = ""


def resolve(
    source: Path,
    rows: Sequence[ManifestRow],
    problems: Iterable[str] = (),
    class_names: tuple[str, ...] | None = None,
    warnings: Iterable[str] = (),
    root: Path | None = None,
) -> Listing:
    """The listing of a manifest.

    Paths are absolute, or start from ``root``, else from the folder that :func:`find_base` finds.

    Raises:
        DataError: all rows that cannot be used, those found by the parser (``problems``) among them.
    """
    base, notes = find_base(source, [row.path for row in rows], root)
    found, notes = list(problems), [*warnings, *notes]
    inside = tuple(os.path.join(os.path.realpath(folder), "") for folder in (base.folder, source.parent))
    entries: list[Entry] = []
    first: dict[tuple[str, str | None], ManifestRow] = {}
    repeated: list[str] = []
    for row in rows:
        problem = _problem(row, base, inside)
        if problem is None:
            path = base.find(row.path) or row.path
            earlier = first.setdefault((path, row.caption), row)
            if earlier is row:
                entries.append(Entry(Path(path), row.path, row.label, row.caption, row.partition, row.where))
                continue
            if earlier.label == row.label and earlier.partition == row.partition:
                repeated.append(f"{row.where} repeats {earlier.where}")
                continue
            problem = f"{escape(row.path)} stands in {earlier.where} already, with another label or part"
        found.append(f"{row.where}: {problem}")
    if repeated:
        notes.append(f"passed over {number(len(repeated), 'repeated row')}, the first: {repeated[0]}")
    fix = f"correct them, or name the folder that the paths start from (`root`); looked in {escape(base.folder)}"
    missing = any(": no file " in problem for problem in found)
    refuse_any(found, "rows that name a picture and what it shows", fix if missing else "correct them", source)
    refuse_any([] if entries else ["no row at all"], "rows with pictures", "check the file", source)
    return Listing(source, tuple(entries), class_names, tuple(notes))


def _problem(row: ManifestRow, base: BaseFolder, inside: tuple[str, ...]) -> str | None:
    """Why the row's path cannot be used, or None."""
    name = escape(row.path[:200])
    if not row.path.strip():
        return "empty path"
    if "://" in row.path:
        return f"{name} is an address; download it first"
    if row.label is not None and not row.label.strip():
        return "empty label"
    if row.caption is not None and not row.caption.strip():
        return "empty caption"
    files = base.spellings(row.path)
    if len(files) != 1:
        both = " or ".join(escape(os.path.basename(file)) for file in files)
        return f"{name} may mean {both}" if files else f"no file {name}"
    if not is_there(row.path) and not os.path.realpath(files[0]).startswith(inside):
        return f"{name} lies outside the folder that the paths start from; name one above both (`root`)"
    return None
