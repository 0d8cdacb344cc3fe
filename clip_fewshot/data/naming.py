"""File names as they are shown, compared and sorted."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

LISTED = 20  # offenders an error names before it only counts


def shown(name: str | Path) -> str:
    """``name`` for a message: what would not print (newlines, bytes that are no UTF-8, bidi marks) as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(name))


def byte_order(name: str | Path) -> bytes:
    """Sort key that does not depend on locale, platform or the order in which a folder is listed."""
    return str(name).encode("utf-8", "surrogatepass")


def folded(name: str) -> str:
    """What two names share when a person would take them for the same: no case, no spaces, NFKC."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def first_of(offenders: Iterable[str]) -> str:
    """The first twenty offenders and the count of the others, one per line."""
    lines = list(offenders)
    more = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "\n  ".join(["", *lines[:LISTED], *more])
