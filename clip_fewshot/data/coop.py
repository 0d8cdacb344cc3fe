"""The split files of CoOp: Zhou, Yang, Loy, Liu, "Learning to Prompt for Vision-Language Models", 2022.

``{"train": [[path, label, classname], ...], "val": [...], "test": [...]}``, labels counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clip_fewshot.data.json_labels import parse_json
from clip_fewshot.data.listing import PARTITIONS, VALIDATION_JOINED, Listing, refuse_any
from clip_fewshot.data.manifest import ManifestRow, resolve
from clip_fewshot.data.names import escape
from clip_fewshot.errors import DataError

SPLIT_NAMES = ("train", "val", "test")


def read_coop(source: Path, root: Path | None = None) -> Listing:
    """Classes in the order of their numbers; the parts are kept, ``val`` as training images."""
    parts = _parsed(source)
    return list_triples(source, parts, [VALIDATION_JOINED] if parts.get("val") else [], root)


def list_triples(source: Path, parts: dict[str, list[Any]], warnings: list[str], root: Path | None) -> Listing:
    """The listing of [path, label, class name] triples under the names of their parts."""
    rows, problems = [], []
    name_of: dict[int, str] = {}
    for where, part, item in _items(parts):
        if not is_triple(item):
            problems.append(f"{where}: {escape(json.dumps(item)[:80])} is no [path, label, class name]")
            continue
        path, number, name = item
        if name_of.setdefault(number, name) != name:
            problems.append(f"{where}: label {number} is {escape(name)!r} here and {escape(name_of[number])!r} before")
        rows.append(ManifestRow(f"{escape(source.name)}:{where}", path, name, partition=PARTITIONS[part]))
    names = tuple(name_of[number] for number in sorted(name_of))
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"class {escape(name)!r} has two numbers" for name in twice]
    refuse_any(problems, "[path, label, class name] triples", "correct them", source)
    return resolve(source, rows, class_names=names, warnings=warnings, root=root)


def is_coop(content: Any) -> bool:
    """Whether parts hold lists, and not objects with names."""
    parts = content.values() if isinstance(content, dict) and content.keys() & {*SPLIT_NAMES} else ()
    return any(isinstance(items, list) and items and isinstance(items[0], list) for items in parts)


def _parsed(source: Path) -> dict[str, list[Any]]:
    parts = parse_json(source)
    if not isinstance(parts, dict) or not {"train", "test"} <= parts.keys() <= {*SPLIT_NAMES}:
        expected = "an object with train, test and perhaps val"
        raise DataError(expected=expected, got="other content", fix="check the file", where=escape(source))
    if not all(isinstance(items, list) for items in parts.values()):
        got = "something else"
        raise DataError(expected="a list under each part", got=got, fix="check the file", where=escape(source))
    return parts


def _items(parts: dict[str, list[Any]]) -> Iterator[tuple[str, str, Any]]:
    for part in SPLIT_NAMES:
        for i, item in enumerate(parts.get(part, [])):
            yield f"{part}[{i}]", part, item


def is_triple(item: object) -> bool:
    """Whether it is [path, label from 0 on, class name]."""
    if not isinstance(item, list) or len(item) != 3:
        return False
    path, number, name = item
    return isinstance(path, str) and type(number) is int and number >= 0 and isinstance(name, str)
