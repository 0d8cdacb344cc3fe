"""Words of a command line -> values of the types that an option has."""

from __future__ import annotations

import argparse
import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

Convert = Callable[[str], Any]

TYPE_WORDS = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def choose_converter(arms: tuple[Any, ...], meta: Mapping[str, Any], many: bool) -> Convert:
    """What turns the text of an option into its value."""
    if "parse" in meta:
        parse_value: Convert = meta["parse"]
        return parse_value
    if meta.get("duration"):
        return parse_duration
    if meta.get("texts"):
        return lambda text: (text,)
    readers = [_reader(item_of(arm) if many else arm, choices_of(arm, meta)) for arm in arms]

    def convert(text: str) -> Any:
        if not text and not meta.get("positional"):  # those have a better word for what is missing
            raise ValueError("expected a value, got an empty text")
        return _first(readers, text)

    return convert


def _first(readers: Sequence[Convert], text: str) -> Any:
    """The first type of a union that can read ``text``; the last one's complaint if none can."""
    if len(readers) > 1:
        with contextlib.suppress(ValueError):
            return readers[0](text)
        return _first(readers[1:], text)
    return readers[0](text)


def _reader(hint: Any, choices: tuple[Any, ...]) -> Convert:
    if get_origin(hint) is tuple:
        return _tuple_reader(get_args(hint), choices)
    plain = type(get_args(hint)[0]) if get_origin(hint) is Literal else hint
    what = f"one of {', '.join(map(str, choices))}" if choices else TYPE_WORDS[plain]

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            value = plain(text)
            meant = plain is not float or math.isfinite(value)  # NaN and infinity are no numbers a user means
            if meant and (not choices or value in choices):
                return value
        raise ValueError(f"expected {what}, got {text!r}")

    return read


def _tuple_reader(items: tuple[Any, ...], choices: tuple[Any, ...]) -> Convert:
    """tuple[int, ...] reads "1,2,3"; tuple[float, float] wants exactly two."""
    read, length = _reader(items[0], choices), None if items[-1] is Ellipsis else len(items)

    def read_all(text: str) -> tuple[Any, ...]:
        parts = [part.strip() for part in text.split(",")]
        if "" in parts or (length is not None and len(parts) != length):
            raise ValueError(f"expected {length or 'some'} values with commas between them, got {text!r}")
        return tuple(read(part) for part in parts)

    return read_all


def report_errors(convert: Convert) -> Convert:
    """argparse keeps the words of an ArgumentTypeError only; of a ValueError it prints the function's name."""

    def reported(text: str) -> Any:
        if text is argparse.SUPPRESS:  # the mark of a place left empty, which argparse sends through the type
            return text
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return reported


def parse_duration(text: str) -> float:
    """Seconds out of a text such as 90, 90s, 10min, 1h30min or 2d."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)([a-z]*)", text.lower())
    whole = "".join(map("".join, parts)) == text.lower() and bool(parts)
    if whole and len(parts) == 1 and not parts[0][1]:
        return float(parts[0][0])
    if not whole or not all(unit in SECONDS for _, unit in parts):
        raise ValueError(f"expected a time such as 90s, 10min or 1h30min, got {text!r}")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


def arms_of(hint: Any) -> tuple[Any, ...]:
    """int | None -> (int,)."""
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(arm for arm in arms if arm is not NoneType)


def item_of(arm: Any) -> Any:
    """tuple[int, ...] -> int."""
    return get_args(arm)[0] if get_origin(arm) is tuple else arm


def choices_of(arm: Any, meta: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values that an option may have; empty where any will do."""
    return tuple(meta.get("choices") or (get_args(item_of(arm)) if get_origin(item_of(arm)) is Literal else ()))
