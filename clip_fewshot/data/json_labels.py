"""JSON that names pictures, told apart by its structure alone: records, parts of records, COCO, FiftyOne, mappings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_fewshot.data.columns import Table
from clip_fewshot.data.listing import PARTITIONS, Listing
from clip_fewshot.data.names import escape
from clip_fewshot.data.tables import list_table
from clip_fewshot.data.text_files import read_text
from clip_fewshot.errors import DataError

LINES = (".jsonl", ".ndjson")  # suffixes of files with an object a line
BOXES = ("bbox", "segmentation", "keypoints")
STRUCTURES = (
    "a list of objects, an object a line, train/val/test of such, images with annotations and categories (COCO), "
    "labels with classes (FiftyOne), {class: [paths]}, {path: class}, or CoOp's splits"
)
Records = list[tuple[str, Mapping[str, Any]]]  # place for errors, and what is said of one picture


def read_json_labels(source: Path, root: Path | None = None, columns: Mapping[str, str] | None = None) -> Listing:
    """A picture or caption per record; names are known as those of columns are.

    Raises:
        DataError: no JSON, another structure, boxes in place of classes, or rows that cannot be used.
    """
    content = None if source.suffix.lower() in LINES else parse_json(source)
    rows, problems = _lines(source) if content is None else _records(content, source)
    names = tuple(dict.fromkeys(name for _, row in rows for name, value in row.items() if not _is_nested(value)))
    cells = [(f"{escape(source.name)}:{where}", tuple(_cell(row.get(name)) for name in names)) for where, row in rows]
    places = [f"{escape(source.name)}:{problem}" for problem in problems]
    return list_table(Table(source, names, tuple(cells), tuple(places), _left_out(content)), root, columns)


def _left_out(content: Any) -> tuple[str, ...]:
    """A note on COCO's pictures without an annotation."""
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return ()
    told = {item.get("image_id") for item in content["annotations"] if isinstance(item, dict)}
    n = sum(item.get("id") not in told for item in content["images"])
    return (f"{n} pictures without an annotation were not read",) if n else ()


def parse_json(source: Path) -> Any:
    """The content of a JSON file."""
    try:
        return json.loads(read_text(source))
    except (ValueError, RecursionError) as error:
        raise DataError(expected="JSON", got=str(error), fix="restore the file", where=escape(source)) from error


def _is_nested(value: object) -> bool:
    return isinstance(value, list | dict)


def _cell(value: Any) -> str:
    return "" if value is None or _is_nested(value) else str(value).strip()


def _lines(source: Path) -> tuple[Records, list[str]]:
    rows, problems = [], []
    for number, line in enumerate(read_text(source).split("\n"), start=1):
        row = _object(line) if line.strip() else {}
        if row is None:
            problems.append(f"{number}: no JSON object in {escape(line[:80])!r}")
        elif row:
            rows.append((str(number), row))
    return rows, problems


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _records(content: Any, source: Path) -> tuple[Records, list[str]]:
    """The rows of a whole file, by its structure."""
    if isinstance(content, list):
        return _objects(content, "")
    if isinstance(content, dict) and content:
        if {"images", "annotations"} <= content.keys():
            return _annotated(content, source)
        if isinstance(content.get("labels"), dict) and isinstance(content.get("classes", []), list):
            return _classed(content["labels"], content.get("classes", []), source), []
        parts = {part: items for part, items in content.items() if part.lower() in PARTITIONS}
        if len(parts) == len(content) and all(map(_holds_objects, parts.values())):
            return _parts(parts)
        if all(isinstance(paths, list) and all(isinstance(p, str) for p in paths) for paths in content.values()):
            lists = [(name, paths) for name, paths in content.items() if not parts]
            rows = [(f"{name}[{i}]", {"image": p, "label": name}) for name, paths in lists for i, p in enumerate(paths)]
            if rows:
                return rows, []
        if all(isinstance(value, str | int) for value in content.values()):
            return [(escape(path), {"image": path, "label": label}) for path, label in content.items()], []
    raise DataError(expected=STRUCTURES, got="another structure", fix="convert it", where=escape(source))


def _holds_objects(items: object) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)


def _objects(items: Sequence[Any], part: str) -> tuple[Records, list[str]]:
    rows = [(f"{part}[{i}]", item) for i, item in enumerate(items) if isinstance(item, dict)]
    return rows, [f"{part}[{i}]: no JSON object" for i, item in enumerate(items) if not isinstance(item, dict)]


def _parts(parts: Mapping[str, Sequence[Any]]) -> tuple[Records, list[str]]:
    rows = [(where, row | {"split": part}) for part, items in parts.items() for where, row in _objects(items, part)[0]]
    return rows, []


def _classed(labels: Mapping[str, Any], classes: Sequence[Any], source: Path) -> Records:
    """FiftyOne's: file stem -> class, or its number in ``classes``."""
    nested = [key for key, value in labels.items() if _is_nested(value)]
    if nested:
        raise _boxes(f"{escape(nested[0])} with several", source)
    return [(escape(key), {"image": key, "label": _class_at(value, classes)}) for key, value in labels.items()]


def _class_at(value: Any, classes: Sequence[Any]) -> Any:
    if isinstance(value, int) and classes:
        return classes[value] if 0 <= value < len(classes) else None
    return value


def _annotated(content: Mapping[str, Any], source: Path) -> tuple[Records, list[str]]:
    """COCO's: annotations join images and categories, or images and captions."""
    tables = {name: _by_id(content.get(name, []), name, source) for name in ("images", "categories")}
    rows: Records = []
    problems = []
    for i, item in enumerate(content["annotations"]):
        where = f"annotations[{i}]"
        if not isinstance(item, dict):
            problems.append(f"{where}: no JSON object")
            continue
        if any(item.get(box) for box in BOXES):
            raise _boxes(f"{where} with a {next(box for box in BOXES if item.get(box))}", source)
        image = tables["images"].get(item.get("image_id"), {})
        category = tables["categories"].get(item.get("category_id"), {})
        label = {"label": category.get("name")} if "category_id" in item else {}
        caption = {"caption": item["caption"]} if "caption" in item else {}
        rows.append((where, {"image": image.get("file_name"), **label, **caption}))
    return rows, problems


def _by_id(items: Any, name: str, source: Path) -> dict[Any, Mapping[str, Any]]:
    if not _holds_objects(items):
        raise DataError(
            expected=f"objects with an id under {name!r}", got="others", fix="correct it", where=escape(source)
        )
    return {item.get("id"): item for item in items if not _is_nested(item.get("id"))}


def _boxes(got: str, source: Path) -> DataError:
    fix = "cut the objects out into pictures of their own, or give one class per picture"
    return DataError(expected="one class per picture", got=f"boxes: {got}", fix=fix, where=escape(source))
