"""File names as they are shown, compared and sorted."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from clip_fewshot.errors import UsageError

SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
}
SUFFIXES = frozenset(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
MAX_NAME_LENGTH = 100  # characters of a class name
NO_CLASS = "unknown"  # what answers say where there is no class

LISTED = 5  # offenders an error names before it only counts


def escape(name: str | Path) -> str:
    """``name`` for a message: what would not print (newlines, bytes that are no UTF-8, bidi marks) as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(name))


def sort_key(name: str | Path) -> bytes:
    """Sort key that does not depend on locale, platform or the order in which a folder is listed."""
    return str(name).encode("utf-8", "surrogatepass")


def fold_name(name: str) -> str:
    """What two names share when a person would take them for the same: no case, no spaces, NFKC."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def list_first(offenders: Iterable[str]) -> str:
    """The first five offenders and the count of the others, one per line."""
    lines = list(offenders)
    more = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "\n  ".join(["", *lines[:LISTED], *more])


def speak_name(name: str) -> str:
    """A class name as a text says it: underscores are the spaces that a sentence would have.

    Raises:
        UsageError: nothing is left to say.
    """
    spoken = name.replace("_", " ").strip()
    if not spoken:
        fix = "give each class a name"
        raise UsageError(expected="the name of a class in a text", got=repr(name), fix=fix, where="class name")
    return spoken


def check_class_name(name: str, existing: Collection[str]) -> str:
    """``name`` if it can be that of a further class.

    Raises:
        UsageError: empty, with characters that do not print or blanks at an end, "unknown", or one that a person would
            take for a class that is there already.
    """
    text = isinstance(name, str) and name.isprintable() and name == name.strip()
    if not text or not 0 < len(name) <= MAX_NAME_LENGTH:
        expected = f"a name of 1 to {MAX_NAME_LENGTH} printing characters, without blanks at its ends"
        raise UsageError(
            expected=expected, got=repr(name)[: 2 * MAX_NAME_LENGTH], fix="choose another one", where="class name"
        )
    if fold_name(name) == NO_CLASS:
        raise UsageError(
            expected="the name of a class",
            got=repr(name),
            fix="it is what answers say where there is none",
            where="class name",
        )
    same = [one for one in existing if fold_name(one) == fold_name(name)]
    if same:
        fix = "choose another name, or add the pictures to that class with assign"
        raise UsageError(
            expected="a name that no class has", got=f"{name!r} beside {same[0]!r}", fix=fix, where="class name"
        )
    return name
