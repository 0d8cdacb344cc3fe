"""Text files that share numbers of pictures, as CUB's: ``1 ant/0.jpg`` in one, ``1 7`` in another, ``7 ant`` then.

Which file says what is read off its lines: pictures end like pictures, classes are numbers, names are words for all
numbers of classes. Only a list of training pictures (1) and test pictures (0) is known by its name, which has "train".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from clip_fewshot.data.listing import Listing
from clip_fewshot.data.manifest import ManifestRow, resolve
from clip_fewshot.data.names import SUFFIXES, escape, sort_key
from clip_fewshot.data.text_files import read_text
from clip_fewshot.errors import DataError

MOST_LIST_BYTES = 64 << 20  # of a file beside the list; larger ones are no such lists
Numbered = dict[str, str]  # number -> the rest of its line


def is_numbered(source: Path) -> bool:
    """Whether a text file is one of several that share the numbers of pictures."""
    own = _numbered(source)
    return bool(own) and any(_are_pictures(table.values()) for table in _beside(source, set(own)).values())


def read_numbered(source: Path, root: Path | None = None) -> Listing:
    """The pictures with their classes, and the parts where a list says so.

    Raises:
        DataError: no list of classes for the same numbers, or several; rows that cannot be used.
    """
    own = _numbered(source)
    shared = _beside(source, set(own))
    pictures = next((table for table in shared.values() if _are_pictures(table.values())), {})
    numbers = {path: table for path, table in shared.items() if all(map(str.isdigit, table.values()))}
    parts = {path: table for path, table in numbers.items() if "train" in path.stem and {*table.values()} <= {"0", "1"}}
    classes = {path: table for path, table in numbers.items() if path not in parts}
    classes = {source: classes[source]} if source in classes else classes
    if len(classes) != 1 or len(parts) > 1:
        got = ", ".join(escape(path.name) for path in (classes or parts)) or "none"
        fix = "name the list of classes as DATA"
        raise DataError(expected="one list of classes for these pictures", got=got, fix=fix, where=escape(source))
    place, labels = next(iter(classes.items()))
    names, side = _names(source, set(labels.values()), own.keys()), next(iter(parts.values()), {})
    rows = [
        ManifestRow(f"{escape(place.name)}:{n}", path, names.get(labels[n], labels[n]), None, _part(side.get(n)))
        for n, path in pictures.items()
    ]
    nameless = [f"{escape(place.name)}:{n}: class {labels[n]} has no name" for n in labels if labels[n] not in names]
    return resolve(source, rows, nameless if names else [], root=root)


def _part(number: str | None) -> str:
    return "" if number is None else "train" if number == "1" else "test"


def _numbered(path: Path) -> Numbered:
    """Number -> rest, of a file in which every line begins with another whole number; else nothing."""
    try:
        pairs = [line.split(None, 1) for line in read_text(path).split("\n") if line.strip()]
    except DataError:
        return {}
    if not all(len(pair) == 2 and pair[0].isdigit() for pair in pairs):
        return {}
    table = {number: rest.strip() for number, rest in pairs}
    return table if len(table) == len(pairs) else {}


def _beside(source: Path, numbers: set[str] | None = None) -> dict[Path, Numbered]:
    """The numbered lists in the folder of ``source``, with the same numbers if some are given."""
    places = sorted((path for path in source.parent.glob(f"*{source.suffix}") if path.is_file()), key=sort_key)
    tables = {path: _numbered(path) for path in places if path.stat().st_size <= MOST_LIST_BYTES}
    return {path: table for path, table in tables.items() if table and (numbers is None or table.keys() == numbers)}


def _are_pictures(rests: Iterable[str]) -> bool:
    return all(rest.lower().endswith(tuple(SUFFIXES)) for rest in rests)


def _names(source: Path, classes: set[str], pictures: Collection[str]) -> Numbered:
    """The list that has a word of its own for most classes; nothing where there is none."""
    for table in _beside(source).values():
        words = {*table.values()}
        if table.keys() == {*pictures} or 2 * len(table.keys() & classes) <= len(classes):
            continue
        if len(words) == len(table) and not any(map(str.isdigit, words)) and not _are_pictures(words):
            return table
    return {}
