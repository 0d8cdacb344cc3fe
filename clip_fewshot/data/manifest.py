"""From the rows of a list, table or split file to entries: where the files lie, and whether each row can be meant."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from clip_fewshot.data.listing import Entry, Listing, refuse_any
from clip_fewshot.data.names import escape, sort_key

PROBED = 50  # rows looked at to find the folder that paths are relative to


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
) -> Listing:
    """The listing of a manifest.

    Paths are relative to the manifest's folder or to one folder in it, whichever has most of the files.

    Raises:
        DataError: all rows that cannot be used, those found by the parser (``problems``) among them.
    """
    base, found, notes = _base(source, rows), list(problems), list(warnings)
    inside = os.path.realpath(source.parent) + os.sep
    entries: list[Entry] = []
    first: dict[tuple[str, str | None], ManifestRow] = {}
    for row in rows:
        problem = _problem(row, base, inside)
        if problem is None:
            path = os.path.normpath(base / row.path)
            earlier = first.setdefault((path, row.caption), row)
            if earlier is row:
                entries.append(Entry(Path(path), row.path, row.label, row.caption, row.partition, row.where))
                continue
            if earlier.label == row.label and earlier.partition == row.partition:
                notes.append(f"{row.where} repeats {earlier.where} and was passed over")
                continue
            problem = f"{escape(row.path)} stands in {earlier.where} already, with another label or part"
        found.append(f"{row.where}: {problem}")
    refuse_any(found, "rows that name a picture and what it shows", "correct them", source)
    refuse_any([] if entries else ["no row at all"], "rows with pictures", "check the file", source)
    return Listing(source, tuple(entries), class_names, tuple(notes))


def _base(source: Path, rows: Sequence[ManifestRow]) -> Path:
    folders = [source.parent]
    try:
        with os.scandir(source.parent) as items:
            folders += sorted((Path(i.path) for i in items if i.is_dir() and not i.name.startswith(".")), key=sort_key)
    except OSError:
        pass  # a folder that may be entered but not listed: its own files can still be reached
    return max(folders, key=lambda folder: sum(_exists(folder, row.path) for row in rows[:PROBED]))


def _exists(folder: Path, path: str) -> bool:
    try:
        return os.path.exists(folder / path)
    except ValueError:  # a NUL or a lone surrogate
        return False


def _problem(row: ManifestRow, base: Path, inside: str) -> str | None:
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
    if not _exists(base, row.path):
        return f"no file {name}"
    if not os.path.realpath(base / row.path).startswith(inside):
        return f"{name} lies outside the manifest's folder"
    return None
