"""What a format yields before any picture is opened: which files, with which labels, and where that is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from clip_fewshot.data.names import escape, list_first
from clip_fewshot.errors import DataError

# Validation folders join the training side: K shots means K, and validation images come out of the K.
PARTITIONS = {
    "train": "train",
    "training": "train",
    "val": "train",
    "valid": "train",
    "validation": "train",
    "test": "test",
    "testing": "test",
}
VALIDATION = ("val", "valid", "validation")
VALIDATION_JOINED = "the source's validation images joined the training side: validation comes out of the K shots"


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
        raise DataError(
            expected=expected,
            got=f"{len(problems)} that cannot be used:{list_first(problems)}\n",
            fix=fix,
            where=escape(source),
        )
