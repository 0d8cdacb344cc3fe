"""In the place of every path of every command: nothing, pipes, devices, endless files, junk, names beyond the limits.

Refused in a line within seconds, whatever it is and whoever reads it. What only looks odd (a name that is no UTF-8) is
in the last cases and must be accepted.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.attack import lines
from tests.attack.apart import command, shown
from tests.attack.harness import Attack, Outcome, shuffled

PATH_OPTIONS = {"--root", "--test", "--class-names", "--words", "--tuned", "--saved", "--labelled", "--unlabelled",
                "--image", "--templates", "--novel", "--background", "--features", "--from", "--model"}  # fmt: skip
MEMORY = 3 << 30
JUNK = bytes(range(256)) * 40


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _socket(path: Path) -> None:
    place = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(place)


def _junk_folder(path: Path) -> None:
    path.mkdir()
    for name in ("manifest.json", "store.sqlite3", "a.png", "b.csv", "model.safetensors", "config.json"):
        (path / name).write_bytes(JUNK)


def _device_folder(path: Path) -> None:
    path.mkdir()
    for name in ("manifest.json", "run.json", "store.sqlite3", "config.json", "model.safetensors", "labels.csv"):
        os.mkfifo(path / name)


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _write(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


MADE: dict[str, Callable[[Path], object]] = {
    "empty": _write(b""),
    "empty.csv": _write(b""),
    "pipe": lambda path: os.mkfifo(path),
    "pipe.csv": lambda path: os.mkfifo(path),
    "pipe.json": lambda path: os.mkfifo(path),
    "pipe.parquet": lambda path: os.mkfifo(path),
    "pipe.tar": lambda path: os.mkfifo(path),
    "socket.csv": _socket,
    "zero.csv": _link("/dev/zero"),
    "zero.json": _link("/dev/zero"),
    "zero": _link("/dev/zero"),
    "sparse.csv": _sparse,
    "sparse.json": _sparse,
    "sparse.pt": _sparse,
    "sparse.tar": _sparse,
    "loop": _link("loop"),
    "hollow": lambda path: path.mkdir(),
    "junk": _junk_folder,
    "pipes": _device_folder,
    "junk.json": _write(JUNK),
    "junk.csv": _write(JUNK),
    "junk.parquet": _write(b"PAR1" + JUNK + b"PAR1"),
    "junk.pt": _write(b"PK\3\4" + JUNK),
    "junk.safetensors": _write((1 << 62).to_bytes(8, "little") + JUNK),
    "junk.tar": _write(JUNK),
    "page.jpg": _write(b"<!DOCTYPE html><p>not found</p>"),
    "deep.json": _write(b"[" * 200_000),
    "endless.json": _write(b'{"schema": 1e400, "groups": NaN, "revision": 1e999}'),
    "list.json": _write(b"[1, 2, null]"),
}
NAMED = (
    "nowhere",
    "",
    "x" * 5000,
    "y" * 256 + ".png",
    "/proc/self/mem",
    "/dev/null",
    "/dev/full/x",
    "a\nb\x1b[31m",
    "~nobody",
)
# Where nothing must be refused: an empty file of names of classes, templates or words may be no mistake to all.
MAY = {"", "empty", "hollow", "/dev/null"}
TEXTS = {"page.jpg", "list.json", "endless.json", "deep.json"}  # any text is a list of words, a line each


class Case(NamedTuple):
    """A command, the place in its line (a number) or a flag, and what is put there."""

    command: str
    place: int | str
    thing: str


@cache
def cases() -> list[Case]:
    """All of them, mixed."""
    found: list[Case] = []
    for name in lines.names():
        places = [*range(COUNTS.get(name, 1)), *(flag for flag, _ in lines.options(name) if flag in PATH_OPTIONS)]
        found += [Case(name, place, thing) for place in places for thing in (*MADE, *NAMED)]
    return shuffled(found)


# Paths given by place; one where not said.
COUNTS = {"predict": 2, **{f"open_world {name}": 2 for name in ("init", "ingest", "apply", "predict")}}


def strike(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    case, cwd = cases()[number], lines.bench(folder)
    line = list(lines.lines(folder)[case.command])
    if case.thing in MADE:
        MADE[case.thing](cwd / case.thing)
    if isinstance(case.place, int):
        line[case.place] = case.thing
        if (
            case.command == "open_world init"
            and case.place == 0
            and case.thing in ("nowhere", "hollow", "~nobody", "a\nb\x1b[31m")
        ):
            return Outcome(True, "accepted")  # a fine place for a store
    else:
        line = [*line, f"{case.place}={case.thing}"]
    ended = command(folder, *case.command.split(), *line, cwd=cwd, seconds=20, memory=MEMORY)
    again = f"{case.command}: {case.thing[:20]!r} as {case.place}: {ended.err.strip()[-200:]}"
    if raw := ended.raw():
        return Outcome(False, raw, again)
    words = case.place == "--words" and case.thing in TEXTS
    if ended.code == 0 and case.thing not in MAY and not words:
        return Outcome(False, "accepted", f"{again} {shown(line)}")
    if "\x1b" in ended.err or len(ended.err) > 6000:
        return Outcome(False, "message not escaped or cut", again)
    return Outcome(True, "refused" if ended.code else "accepted")


def strike_odd(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    """Names that may be: every command takes its inputs under them."""
    names = [name for name in lines.names() if name not in ("open_world undo",)]
    name, cwd = names[number % len(names)], lines.bench(folder)
    odd = ODD[number // len(names)]
    line: list[object] = []
    for word in lines.lines(folder)[name]:
        source = cwd / "store" if word == "store" else word
        if isinstance(source, Path) and source.is_dir():
            shutil.copytree(source, cwd / os.fsdecode(odd))
            word = os.fsdecode(odd)
            line.append(f"./{word}" if word.startswith("-") else word)
            line += list(lines.lines(folder)[name])[len(line) :]
            break
        line.append(word)
    ended = command(folder, *name.split(), *line, cwd=cwd)
    what = ended.raw() or ("" if ended.code in (0, 5) else f"refused with {ended.code}")
    return Outcome(not what, what or "accepted", f"{name} {odd!r}: {ended.err.strip()[-300:]}" if what else "")


ODD = (
    b"a b",
    b"b\xff\xfe",
    b"-rf",
    "ä é".encode(),
    "e\u0301".encode(),
    b"=cmd()",
    b"a,b",
    b"a\nb",
    b"n" * 200,
    b"x[1]*?",
    b"%s{}",
)

ATTACKS = [
    Attack("bad files", "refused in a line with exit code 2 or 4 within 20 s", len(cases()), 5, lines.prepare, strike),
    Attack(
        "odd names",
        "used like any other name",
        len(ODD) * (len(lines.names()) - 1),
        3,
        lines.prepare,
        strike_odd,
        patience=90,
    ),
]
