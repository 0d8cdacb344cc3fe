"""Options of a command: a frozen dataclass becomes a command line, and what was typed an instance of it.

The dataclass is the one place of names, types and defaults. A field's metadata may hold
    help        what it is for; the default is added
    unit        shown behind the help
    group       title of the argument group it stands in
    duration    True: times such as 90s, 10min, 1h30min are read into seconds
    choices     the values allowed (a ``Literal`` type gives them as well)
    metavar     the word that stands for the value in --help
    positional  True: given by place, not as --name
    flag        of a positional one, the flag that says the same, such as --data
    texts       True, of a tuple: each value is one text, commas and all
    listed      True, of a string of names: repeated, it grows by a comma and the new ones
    nargs       argparse's, where the type does not say it
    parse       callable str -> value, in place of the type's own; it raises ValueError
A field whose type is itself a dataclass is an argument group: its fields are options like all others.

A list is split at commas and grows when it is repeated: ``--models a,b --models c`` are three. Nothing heavy is
imported here, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from clip_fewshot.commands.cli.values import arms_of, choices_of, choose_converter, item_of, report_errors
from clip_fewshot.errors import ClipFewShotError, UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
LAST_GROUP = "output"  # what most commands share stands behind what is their own


def parse(
    options: type[T], prog: str, description: str, argv: Sequence[str] | None = None, examples: Sequence[str] = ()
) -> T:
    """``argv`` (default: the command line) -> an instance of ``options``; exits 2 with one line on a mistake.

    Args:
        examples: what may stand behind ``prog``, for --help.
    """
    parser = build_parser(options, prog, description, examples)
    argv = sys.argv[1:] if argv is None else argv
    for name in (arg.removesuffix("=--") for arg in argv if arg.startswith("--") and arg.endswith("=--")):
        parser.error(f"argument {name}: expected one argument")  # argparse drops such a value and hands on a list
    leaves = [field for field, _, _ in flat_fields(options)]
    rest = any(field.metadata.get("nargs") == argparse.REMAINDER for field in leaves)
    # Intermixed, so that DATA may stand behind the options: argparse would take it for missing before the first one.
    given = vars(parser.parse_args(argv) if rest else parser.parse_intermixed_args(argv))
    missing = [_metavar_of(field) for field in leaves if _required(field) and field.name not in given]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    try:
        return _filled(options, given)
    except UsageError as error:  # the dataclass checks ranges by itself
        parser.error(rename_to_flags(error, options))


def build_parser(options: type[Any], prog: str, description: str, examples: Sequence[str]) -> argparse.ArgumentParser:
    """The command line of ``options``."""
    parser = _Parser(
        prog=prog,
        description=textwrap.fill(description, shutil.get_terminal_size().columns - 2),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["examples:", *(f"  {prog} {example}" for example in examples)]) if examples else None,
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    leaves = list(flat_fields(options))
    for field, hint, title in sorted(leaves, key=lambda leaf: leaf[2] == LAST_GROUP):
        if title and title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add(parser, groups.get(title, parser), field, hint)
    return parser


def flat_fields(options: type[Any], title: str = "") -> Iterator[tuple[Field[Any], Any, str]]:
    """(field, type, title of its group) of each option, those of inner dataclasses in their place."""
    hints = get_type_hints(options)
    for field in fields(options):
        group = field.metadata.get("group", title)
        if is_dataclass(hints[field.name]):
            yield from flat_fields(hints[field.name], group or field.name.replace("_", " "))
        elif field.init:
            yield field, hints[field.name], group


def _filled(options: type[T], given: Mapping[str, Any]) -> T:
    """An instance of ``options`` out of what was typed; inner dataclasses first."""
    hints, values = get_type_hints(options), {}
    for field in fields(options):
        if is_dataclass(hints[field.name]):
            values[field.name] = _filled(hints[field.name], given)
        elif field.name in given:
            value = given[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return options(**values)


def rename_to_flags(error: ClipFewShotError | str, options: type[Any]) -> str:
    """The message in the words of the command line, where the library names a parameter in backquotes.

    Of a command with such options, `` `max_unfreeze` `` becomes --max-unfreeze and `` `data` `` DATA.
    """
    typed = {
        field.name: _metavar_of(field) if field.metadata.get("positional") else _flag_of(field)
        for field, _, _ in flat_fields(options)
    }
    listed = re.sub(r"(\n  .*)(?=\n  )", r"\1;", str(error)).replace("\n;", ";")  # an item a line
    return re.sub(r"`(\w+)`", lambda match: typed.get(match[1], match[0]), " ".join(listed.split()))


class _Parser(argparse.ArgumentParser):
    """argparse repeats its whole usage before each error; with thirty options that hides the error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (--help lists the options)\n")


class _Grow(argparse.Action):
    """A list that is repeated appends."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest, ()), *values))


class _GrowText(argparse.Action):
    """The same of names in one string."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, values if before is None else f"{before},{values}")


class _Once(argparse.Action):
    """A value that may be given by place or by name, and not by both."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if hasattr(namespace, self.dest):
            parser.error(f"expected {self.dest.upper()} once, got it twice, by its place and as --{self.dest}")
        setattr(namespace, self.dest, values)


def _add(parser: argparse.ArgumentParser, group: Any, field: Field[Any], hint: Any) -> None:
    # Every default is SUPPRESS: only what was typed reaches the dataclass, whose own defaults hold for the rest.
    meta, arms = field.metadata, arms_of(hint)
    flag, required = _flag_of(field), _required(field)
    common: dict[str, Any] = {"help": _help(field), "default": argparse.SUPPRESS}
    if arms == (bool,):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, required=required, **common)
        return
    positional = bool(meta.get("positional"))
    many = positional and get_origin(arms[0]) is tuple
    common["type"] = report_errors(choose_converter(arms, meta, many))
    common["metavar"] = _metavar_of(field) if positional else meta.get("metavar") or _metavar(arms, meta)
    if "nargs" in meta:
        common["nargs"] = meta["nargs"]
    if not positional:
        group.add_argument(flag, dest=field.name, required=required, **_growing(arms, meta), **common)
        return
    if meta.get("flag") and not many:
        common["action"], required = _Once, False  # else argparse asks for the place even where the name was given
    by_type = {(True, True): "+", (True, False): "*", (False, False): "?", (False, True): None}[many, required]
    parser.add_argument(field.name, **{"nargs": by_type} | common)
    if meta.get("flag"):
        same = common | {"help": f"the same as {common['metavar']}", "dest": field.name}
        listed = {"type": report_errors(choose_converter(arms, meta, many=False)), "action": _Grow} if many else {}
        group.add_argument(meta["flag"], **same | listed)


def _growing(arms: tuple[Any, ...], meta: Mapping[str, Any]) -> dict[str, Any]:
    if meta.get("listed"):
        return {"action": _GrowText}
    endless = len(arms) == 1 and get_origin(arms[0]) is tuple and get_args(arms[0])[-1] is Ellipsis
    return {"action": _Grow} if endless else {}


def _required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _flag_of(field: Field[Any]) -> str:
    """``max_unfreeze`` is --max-unfreeze; ``from_``, which is no name in Python without its end, is --from."""
    return "--" + field.name.rstrip("_").replace("_", "-")


def _metavar_of(field: Field[Any]) -> str:
    return str(field.metadata.get("metavar") or field.name.upper())


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
    item, choices = item_of(arms[0]), choices_of(arms[0], meta)
    words = {int: "N", float: "TIME" if meta.get("duration") else "X", Path: "PATH"}
    word = "{" + ",".join(map(str, choices)) + "}" if choices else words.get(item, "NAME")
    if meta.get("texts"):
        return "TEXT"
    return word if item is arms[0] else f"{word},..."
