"""The files of CoOp: Zhou, Yang, Loy, Liu, "Learning to Prompt for Vision-Language Models", 2022.

``split_zhou_NAME.json`` is ``{"train": [[path, label, classname], ...], "val": [...], "test": [...]}``, labels counted
from 0. ``split_fewshot/shot_16-seed_1.pkl`` is a draw of shots: ``{"train": [Datum, ...], "val": [...]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from clip_fewshot.data.base_folder import count_files
from clip_fewshot.data.inert_pickle import MOST_BYTES, InertInstance, read_pickle
from clip_fewshot.data.listing import PARTITIONS, VALIDATION_JOINED, Listing, refuse_any
from clip_fewshot.data.manifest import ManifestRow, resolve
from clip_fewshot.data.names import escape
from clip_fewshot.data.tables import read_text
from clip_fewshot.errors import DataError

SPLIT_NAMES = ("train", "val", "test")
DRAW = ".pkl"
DATUM_FIELDS = ("_impath", "_label", "_classname")  # of Dassl's Datum


def read_coop(source: Path, root: Path | None = None) -> Listing:
    """Classes in the order of their numbers; the parts are kept, ``val`` as training images.

    Of a draw only the shots are read: its ``val`` comes on top of the K. Its paths are those of the machine that drew;
    the first of the folders that all share are left out until most of the files are found.
    """
    if source.suffix.lower() == DRAW:
        shots, warnings = _drawn(source)
        places = _shorten([path for path, _, _ in shots], source, root)
        parts = {"train": [[place, *rest] for place, (_, *rest) in zip(places, shots, strict=True)]}
    else:
        parts = _parsed(source)
        warnings = [VALIDATION_JOINED] if parts.get("val") else []
    rows, problems = [], []
    name_of: dict[int, str] = {}
    for where, part, item in _items(parts):
        if not _well_formed(item):
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


def _drawn(source: Path) -> tuple[list[list[Any]], list[str]]:
    """[path, label, class name] of each shot, and what was left out."""
    try:
        with source.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        fix = "check path and permissions"
        raise DataError(expected="a readable file", got=str(error), fix=fix, where=escape(source)) from error
    parts = read_pickle(data, {"Datum"}, escape(source))
    if not isinstance(parts, dict) or not {"train"} <= parts.keys() <= {"train", "val"}:
        got, fix = "other content", "check the file"
        raise DataError(expected="a dictionary with train and perhaps val", got=got, fix=fix, where=escape(source))
    for part in parts.values():
        if not isinstance(part, list):
            got, fix = "something else", "check the file"
            raise DataError(expected="a list under each part", got=got, fix=fix, where=escape(source))
    shots = [
        [item.fields.get(name) for name in DATUM_FIELDS] if isinstance(item, InertInstance) else []
        for item in parts["train"]
    ]
    problems = [f"train[{i}]" for i, shot in enumerate(shots) if not _well_formed(shot)]
    refuse_any(problems, f"instances of Datum with {', '.join(DATUM_FIELDS)}", "restore the file", source)
    left_out = len(parts.get("val", []))
    return shots, [f"{left_out} validation images of the draw were left out: validation comes out of the K shots"] * (
        left_out > 0
    )


def _shorten(paths: Sequence[str], source: Path, root: Path | None) -> Sequence[str]:
    """The paths without those leading folders, of the ones that all of them share, that are not here."""
    split = [path.replace("\\", "/").split("/") for path in paths]
    levels = zip(*(parts[:-1] for parts in split), strict=False)
    shared = list(takewhile(lambda level: len(set(level)) == 1, levels))
    ways = [["/".join(parts[cut:]) for parts in split] for cut in range(len(shared) + 1)]
    return max(ways, key=lambda way: count_files(source, way, root))


def _parsed(source: Path) -> dict[str, list[Any]]:
    try:
        parts = json.loads(read_text(source))
    except (ValueError, RecursionError) as error:
        raise DataError(expected="JSON", got=str(error), fix="restore the file", where=escape(source)) from error
    if not isinstance(parts, dict) or not {"train", "test"} <= parts.keys() <= {*SPLIT_NAMES}:
        raise DataError(
            expected="an object with train, test and perhaps val",
            got="other content",
            fix="check the file",
            where=escape(source),
        )
    if not all(isinstance(items, list) for items in parts.values()):
        raise DataError(
            expected="a list under each part", got="something else", fix="check the file", where=escape(source)
        )
    return parts


def _items(parts: dict[str, list[Any]]) -> Iterator[tuple[str, str, Any]]:
    for part in SPLIT_NAMES:
        for i, item in enumerate(parts.get(part, [])):
            yield f"{part}[{i}]", part, item


def _well_formed(item: object) -> bool:
    if not isinstance(item, list) or len(item) != 3:
        return False
    path, number, name = item
    return isinstance(path, str) and type(number) is int and number >= 0 and isinstance(name, str)
