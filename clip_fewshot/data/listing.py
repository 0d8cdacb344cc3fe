"""What a format yields before any picture is opened: which files, with which labels, and where that is written."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from clip_fewshot.data.names import escape, list_first, number, sort_key
from clip_fewshot.errors import DataError

# Validation folders join the training side: K shots means K, and validation images come out of the K.
PARTITIONS = {
    "train": "train",
    "training": "train",
    "val": "train",
    "valid": "train",
    "validation": "train",
    "dev": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
VALIDATION = ("val", "valid", "validation", "dev")
VALIDATION_JOINED = "the source's validation images joined the training side: validation comes out of the K shots"


def part_of(*names: str) -> str:
    """The part that the name of a shard begins with, else that of its folder; or nothing."""
    words = (re.match(r"[a-z]*", name.casefold()) for name in names)
    return next((word[0] for word in words if word is not None and word[0] in PARTITIONS), "")


class Entry(NamedTuple):
    """One picture as the source names it.

    ``where`` is ``file:line`` in a manifest and empty in a folder.
    """

    path: Path
    name: str
    label: str | None = None
    caption: str | None = None
    partition: str = ""
    where: str = ""


@dataclass(frozen=True)
class Listing:
    """A source as it was listed.

    Attributes:
        source: the folder or manifest.
        entries: in an order that depends on the source's content alone.
        class_names: the classes the source declares, in its order; None: those of the entries, sorted.
        warnings: what was left out or decided, one sentence each.
    """

    source: Path
    entries: tuple[Entry, ...]
    class_names: tuple[str, ...] | None = None
    warnings: tuple[str, ...] = ()


def refuse_any(problems: list[str], expected: str, fix: str, source: Path) -> None:
    """Raise one error that names all ``problems``, if there are any."""
    if problems:
        got = f"{len(problems)} that cannot be used:{list_first(problems)}\n"
        raise DataError(expected=expected, got=got, fix=fix, where=escape(source))


def join_sides(training: Listing, test: Listing) -> Listing:
    """Two sources as one: the first is the training side, the second the test side, or the test part of it.

    Raises:
        DataError: the first has a test part itself, or the second a training part alone; the two say different things
            of a picture, or a class of the test side has no picture to learn from.
    """
    test = _test_part(test)
    for listing, other in ((training, "test"), (test, "train")):
        if any(entry.partition == other for entry in listing.entries):
            got, fix = "one that is divided into train and test itself", "leave `test` out, or name one side of it"
            raise DataError(expected="a source for each side", got=got, fix=fix, where=escape(listing.source))
    told = {(entry.label is None, entry.caption is None) for side in (training, test) for entry in side.entries}
    if len(told) > 1:
        fix = "name pictures with classes in both, or with captions in both"
        raise DataError(expected="two sides of one kind", got="labels and captions", fix=fix, where=escape(test.source))
    names = dict.fromkeys(training.class_names or _labels(training))
    unlearned = [escape(name) for name in _labels(test) if name not in names]
    refuse_any(unlearned, "test classes that are among the training classes", "rename or remove them", test.source)
    sides = ((training, "train"), (test, "test"))
    entries = [entry._replace(partition=name) for side, name in sides for entry in side.entries]
    return replace(training, entries=tuple(entries), warnings=(*training.warnings, *test.warnings))


def _test_part(listing: Listing) -> Listing:
    """Of a source that is divided itself, as CoOp's split files beside a draw of shots, the test part."""
    if {entry.partition for entry in listing.entries} != {"train", "test"}:
        return listing
    entries = tuple(entry for entry in listing.entries if entry.partition == "test")
    passed = len(listing.entries) - len(entries)
    note = f"{escape(listing.source.name)} is divided itself: its test part is read, and not {number(passed, 'other')}"
    others = (line for line in listing.warnings if line != VALIDATION_JOINED)  # they join nothing here
    return replace(listing, entries=entries, warnings=(*others, note))


def _labels(listing: Listing) -> list[str]:
    return sorted({entry.label for entry in listing.entries if entry.label is not None}, key=sort_key)
