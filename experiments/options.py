"""Options of an experiment: a frozen dataclass becomes a command line, and what was typed an instance of it.

The dataclass is the one place of names, types and defaults. A field's metadata may hold
    help        what it is for; the default is added
    unit        shown behind the help
    duration    True: times such as 90s, 10min, 1h30min are read into seconds
    choices     the values allowed (a ``Literal`` type gives them as well)
    metavar     the word that stands for the value in --help
    positional  True: given by place, not as --name
    nargs       argparse's, where the type does not say it
    parse       callable str -> value, in place of the type's own; it raises ValueError

Nothing heavy is imported here, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import FrameType, NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import clip_fewshot as cf

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Convert = Callable[[str], Any]

DEBUG = "CLIP_FEWSHOT_DEBUG"
INTERRUPTED, TERMINATED, READER_GONE = 130, 143, 141  # 128 + SIGINT, SIGTERM, SIGPIPE: what a shell expects
WORDS = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def run(
    main: Callable[[T], int], options: type[T], prog: str, description: str, argv: Sequence[str] | None = None
) -> int:
    """Parse, call ``main``, and turn every way it can end into an exit code; a user's mistake is one line.

    0 what ``main`` returns, 2 usage, 1/2/4 the error's own ``exit_code``, 130 Ctrl-C, 143 SIGTERM.
    ``CLIP_FEWSHOT_DEBUG=1`` shows the traceback of a user's mistake too; a defect of ours always shows it.
    """
    chosen = parse(options, prog, description, argv)
    try:
        with _terminable():
            code = main(chosen)
            sys.stdout.flush()  # here, not at exit: a reader that has gone is met inside this try
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except cf.ClipFewShotError as error:
        if os.environ.get(DEBUG, "0") not in ("", "0"):
            sys.excepthook(type(error), error, error.__traceback__)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code


def parse(options: type[T], prog: str, description: str, argv: Sequence[str] | None = None) -> T:
    """``argv`` (default: the command line) -> an instance of ``options``; exits 2 with one line on a mistake."""
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    _add_all(parser, options)
    given = vars(parser.parse_args(argv))
    try:
        return _filled(options, given)
    except cf.UsageError as error:  # the dataclass checks ranges by itself
        parser.error(str(error))


def _add_all(parser: Any, options: type[Any]) -> None:
    """The fields of ``options``; those of a field that is a dataclass itself as a group."""
    hints = get_type_hints(options)
    for field in fields(options):
        if is_dataclass(hints[field.name]):
            _add_all(parser.add_argument_group(field.name), hints[field.name])
        elif field.init:
            _add(parser, field, hints[field.name])


def _filled(options: type[T], given: Mapping[str, Any]) -> T:
    values, hints = {}, get_type_hints(options)
    for field in fields(options):
        if is_dataclass(hints[field.name]):
            values[field.name] = _filled(hints[field.name], given)
        elif field.name in given:
            value = given[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return options(**values)


def duration(text: str) -> float:
    """Seconds out of a text such as 90, 90s, 10min, 1h30min or 2d."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)([a-z]*)", text.lower())
    whole = "".join(map("".join, parts)) == text.lower() and bool(parts)
    if whole and len(parts) == 1 and not parts[0][1]:
        return float(parts[0][0])
    if not whole or not all(unit in SECONDS for _, unit in parts):
        raise ValueError(f"expected a time such as 90s, 10min or 1h30min, got {text!r}")
    return sum(float(number) * SECONDS[unit] for number, unit in parts)


class _Parser(argparse.ArgumentParser):
    """argparse repeats its whole usage before each error; with thirty options that hides the error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help lists the options)\n")


def _add(parser: argparse.ArgumentParser, field: Field[Any], hint: Any) -> None:
    # Every default is SUPPRESS: only what was typed reaches the dataclass, whose own defaults hold for the rest.
    meta, arms = field.metadata, _arms(hint)
    flag = "--" + field.name.replace("_", "-")
    required = field.default is MISSING and field.default_factory is MISSING
    common: dict[str, Any] = {"help": _help(field), "default": argparse.SUPPRESS}
    if arms == (bool,):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, required=required, **common)
        return
    positional = bool(meta.get("positional"))
    many = positional and get_origin(arms[0]) is tuple
    common["type"] = _reported(_converter(arms, meta, many))
    common["metavar"] = meta.get("metavar") or (field.name.upper() if positional else _metavar(arms, meta))
    if "nargs" in meta:
        common["nargs"] = meta["nargs"]
    if not positional:
        parser.add_argument(flag, required=required, **common)
        return
    by_type = {(True, True): "+", (True, False): "*", (False, False): "?", (False, True): None}[many, required]
    parser.add_argument(field.name, **{"nargs": by_type} | common)


def _arms(hint: Any) -> tuple[Any, ...]:
    """int | None -> (int,)"""
    arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(arm for arm in arms if arm is not NoneType)


def _help(field: Field[Any]) -> str:
    text: str = field.metadata.get("help", "") + (f" [{field.metadata['unit']}]" if "unit" in field.metadata else "")
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    silent = default is MISSING or default is None or default in ("", ())
    shown = "" if silent else f" (default: {_shown(default)})"
    return (text + shown).replace("%", "%%")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _metavar(arms: tuple[Any, ...], meta: Mapping[str, Any]) -> str:
    item, choices = _item(arms[0]), _choices(arms[0], meta)
    words = {int: "N", float: "TIME" if meta.get("duration") else "X", Path: "PATH"}
    word = "{" + ",".join(map(str, choices)) + "}" if choices else words.get(item, "NAME")
    return word if item is arms[0] else f"{word},..."


def _item(arm: Any) -> Any:
    """tuple[int, ...] -> int"""
    return get_args(arm)[0] if get_origin(arm) is tuple else arm


def _choices(arm: Any, meta: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(meta.get("choices") or (get_args(_item(arm)) if get_origin(_item(arm)) is Literal else ()))


def _converter(arms: tuple[Any, ...], meta: Mapping[str, Any], many: bool) -> Convert:
    if "parse" in meta:
        parse_value: Convert = meta["parse"]
        return parse_value
    if meta.get("duration"):
        return duration
    readers = [_reader(_item(arm) if many else arm, _choices(arm, meta)) for arm in arms]
    return lambda text: _first(readers, text)


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
    what = f"one of {', '.join(map(str, choices))}" if choices else WORDS[plain]

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            value = plain(text)
            if value == value and (not choices or value in choices):  # NaN is no number a user means
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


def _reported(convert: Convert) -> Convert:
    """argparse keeps the words of an ArgumentTypeError only; of a ValueError it prints the function's name."""

    def reported(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return reported


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds the stack like Ctrl-C, so locks, files and children are let go; a second one kills at once."""

    def unwind(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
