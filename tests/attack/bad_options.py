"""Every option of every command with values that no option has: refused in a line, exit code 2, nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.attack import lines
from tests.attack.apart import command, shown
from tests.attack.harness import Attack, Outcome, shuffled

NO_NUMBERS = ("nan", "inf", "-inf", "x", "", "1e400", "--", "٣x")
NEGATIVE = "-1"
WITHOUT_RANGE = {"--seed", "--split-seed", "--unseen"}  # any whole number will do, or a count and names are taken
LONG = "x" * 5000
NO_FILES = {"--root", "--test", "--class-names", "--words", "--tuned", "--saved", "--labelled", "--unlabelled",
            "--image", "--novel", "--background", "--resume", "--features", "--from"}  # fmt: skip


class Case(NamedTuple):
    """A command with one option more, and whether it must be refused."""

    command: str
    flag: str
    value: str
    must: bool


def _values(flag: str, hint: Any) -> Sequence[tuple[str, bool]]:
    text = str(hint)
    if "float" in text or ("int" in text and "str" not in text):
        return [*((value, True) for value in NO_NUMBERS), (NEGATIVE, flag not in WITHOUT_RANGE), ("0", False)]
    if "Literal" in text or flag in ("--device", "--format", "--detector", "--head", "--method"):
        return [("zz", True), ("", True), (LONG, True)]
    if flag in NO_FILES:
        return [("nowhere", True), ("", True), (LONG, True), ("/dev/null/x", True), ("a\nb", True)]
    if flag in ("--trust", "--columns", "--approaches", "--detectors", "--models", "--model", "--hide", "--reference"):
        return [("zz", True), ("", True), (LONG, True), ("python:nowhere:f", True), ("=", True)]
    return []


@cache
def cases() -> list[Case]:
    """All of them, mixed. What a boolean or a text can be is not attacked here."""
    found = [
        Case(name, flag, value, must)
        for name in lines.names()
        for flag, hint in lines.options(name)
        for value, must in _values(flag, hint)
    ]
    return shuffled(found)


def strike(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    case = cases()[number]
    line = lines.lines(folder)[case.command]
    cwd = lines.bench(folder)
    words = (*case.command.split(), *line, f"{case.flag}={case.value}")
    ended = command(folder, *words, cwd=cwd)
    again = f"{case.command} {case.flag}={case.value[:40]!r}: {ended.err.strip()[-160:]}"
    if raw := ended.raw():
        return Outcome(False, raw, again)
    if ended.code == 0 and case.must:
        return Outcome(False, "accepted", f"{again} {shown(words)}")
    if ended.code and not ended.err.strip():
        return Outcome(False, "no word why", again)
    return Outcome(True, "refused" if ended.code else "accepted")


ATTACKS = [
    Attack(
        "bad options", "refused in a line with exit code 2 or 4", len(cases()), 5, lines.prepare, strike, patience=90
    )
]
