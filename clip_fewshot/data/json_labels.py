"""JSON that names pictures, known by its structure alone: records, COCO, FiftyOne, Label Studio, mappings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from clip_fewshot.data.columns import Table
from clip_fewshot.data.listing import PARTITIONS, Listing
from clip_fewshot.data.names import escape, number
from clip_fewshot.data.tables import list_table
from clip_fewshot.data.text_files import read_text
from clip_fewshot.errors import DataError

LINES = (".jsonl", ".ndjson")  # suffixes of files with an object a line
BOXES = ("bbox", "segmentation", "keypoints")
EDGE_SLACK = 1.0  # by which a box may miss the edge of its picture: tools keep boxes as fractions
SERVED = "?d="  # before the path in Label Studio's address of a file on its own disk
STRUCTURES = (
    "a list of objects, an object a line, train/val/test of such, images with annotations and categories (COCO), "
    "labels with classes (FiftyOne), tasks with annotations (Label Studio), {class: [paths]}, {path: class}, or CoOp's "
    "splits"
)
Records = list[tuple[str, dict[str, Any]]]  # place for errors, and what is said of one picture


def read_json_labels(source: Path, root: Path | None = None, columns: Mapping[str, str] | None = None) -> Listing:
    """A picture or caption per record; names are known as those of columns are.

    A box around the whole picture is a class, as tools write it that know boxes only.

    Raises:
        DataError: no JSON, another structure, boxes in place of classes, or rows that cannot be used.
    """
    return list_table(read_json_table(source), root, columns)


def read_json_table(source: Path) -> Table:
    """The same as cells, before any column has a meaning; a column ``digest`` is kept where a tool passes it on."""
    content = None if source.suffix.lower() in LINES else parse_json(source)
    rows, problems = _lines(source) if content is None else _records(content, source)
    names = tuple(dict.fromkeys(name for _, row in rows for name, value in row.items() if not _is_nested(value)))
    cells = [(f"{escape(source.name)}:{where}", tuple(_cell(row.get(name)) for name in names)) for where, row in rows]
    places = [f"{escape(source.name)}:{problem}" for problem in problems]
    return Table(source, names, tuple(cells), tuple(places), _left_out(content))


def parse_json(source: Path) -> Any:
    """The content of a JSON file; of a key that stands twice in an object, neither value is right."""
    try:
        return json.loads(read_text(source), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise DataError(expected="JSON", got=str(error), fix="restore the file", where=escape(source)) from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"{escape(twice[:80])!r} twice in one object")
    return found


def _is_nested(value: object) -> bool:
    return isinstance(value, list | dict)


def _cell(value: Any) -> str:
    return "" if value is None or _is_nested(value) else str(value).strip()


def _lines(source: Path) -> tuple[Records, list[str]]:
    rows, problems = [], []
    for place, line in enumerate(read_text(source).split("\n"), start=1):
        row = _object(line) if line.strip() else {}
        if row is None:
            problems.append(f"{place}: no JSON object in {escape(line[:80])!r}")
        elif row:
            rows.append((str(place), row))
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
        return _tasks(content) if content and all(map(_is_task, content)) else _objects(content)
    mapping = content if isinstance(content, dict) else {}
    parts = {part: items for part, items in mapping.items() if part.lower() in PARTITIONS}
    if _is_annotated(mapping):
        return _annotated(mapping, source)
    if isinstance(mapping.get("labels"), dict) and isinstance(mapping.get("classes", []), list):
        return _classed(mapping["labels"], mapping.get("classes", []), source), []
    if parts and len(parts) == len(mapping) and all(map(_holds_objects, parts.values())):
        rows = [(f"{part}[{i}]", row | {"split": part}) for part, items in parts.items() for i, row in enumerate(items)]
        return rows, []
    if mapping and not parts and all(map(_holds_texts, mapping.values())):
        return [
            (f"{escape(name)}[{i}]", {"image": path, "label": name})
            for name, paths in mapping.items()
            for i, path in enumerate(paths)
        ], []
    if mapping and all(isinstance(value, str | int) for value in mapping.values()):
        return [(escape(path), {"image": path, "label": label}) for path, label in mapping.items()], []
    raise DataError(expected=STRUCTURES, got="another structure", fix="convert it", where=escape(source))


def _holds_objects(items: object) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)


def _holds_texts(items: object) -> bool:
    return isinstance(items, list) and all(isinstance(item, str) for item in items)


def _objects(items: Sequence[Any]) -> tuple[Records, list[str]]:
    rows = [(f"[{i}]", item) for i, item in enumerate(items) if isinstance(item, dict)]
    return rows, [f"[{i}]: no JSON object" for i, item in enumerate(items) if not isinstance(item, dict)]


def _is_task(item: object) -> bool:
    return isinstance(item, dict) and isinstance(item.get("data"), dict) and _holds_objects(item.get("annotations"))


def _tasks(items: Sequence[Mapping[str, Any]]) -> tuple[Records, list[str]]:
    """Label Studio's: what was uploaded, and the one choice of all annotators; without one the label is empty."""
    rows, problems = Records(), []
    for i, item in enumerate(items):
        results = [one for said in item["annotations"] if not said.get("was_cancelled") for one in said["result"]]
        chosen = {choice for one in results for choice in one.get("value", {}).get("choices", ())}
        if len(chosen) > 1:
            problems.append(f"[{i}]: {number(len(chosen), 'choice')}, and one class a picture is meant")
        data = {name: _strip_server(value) for name, value in item["data"].items()}
        rows.append((f"[{i}]", data | {"label": next(iter(chosen), "")}))
    return rows, problems


def _strip_server(value: object) -> object:
    return unquote(value.partition(SERVED)[2]) if isinstance(value, str) and SERVED in value else value


def _classed(labels: Mapping[str, Any], classes: Sequence[Any], source: Path) -> Records:
    """FiftyOne's: file stem -> class, or its number in ``classes``."""
    nested = [key for key, value in labels.items() if _is_nested(value)]
    if nested:
        raise _boxes(f"several labels of {escape(nested[0])}", source)
    return [(escape(key), {"image": key, "label": _class_at(value, classes)}) for key, value in labels.items()]


def _class_at(value: Any, classes: Sequence[Any]) -> Any:
    if type(value) is int and classes:
        return classes[value] if 0 <= value < len(classes) else None
    return value


def _is_annotated(content: Mapping[str, Any]) -> bool:
    return all(_holds_objects(content.get(name)) for name in ("images", "annotations"))


def _annotated(content: Mapping[str, Any], source: Path) -> tuple[Records, list[str]]:
    """COCO's: annotations join images and categories, or images and captions."""
    images, categories = (_by_id(content.get(name, []), name, source) for name in ("images", "categories"))
    rows: Records = []
    for i, item in enumerate(content["annotations"]):
        image, category = images.get(_key(item, "image_id"), {}), categories.get(_key(item, "category_id"), {})
        boxes = [box for box in BOXES if item.get(box)]
        if boxes and not (boxes == ["bbox"] and _is_whole(item["bbox"], image)):
            raise _boxes(f"annotations[{i}] with a {boxes[0]}", source)
        label = {"label": category.get("name")} if "category_id" in item else {}
        caption = {"caption": item["caption"]} if "caption" in item else {}
        known = {"digest": image["digest"]} if "digest" in image else {}
        rows.append((f"annotations[{i}]", {"image": image.get("file_name"), **label, **caption, **known}))
    return rows, []


def _is_whole(box: Any, image: Mapping[str, Any]) -> bool:
    """Whether (left, top, width, height) in pixels is all of the picture."""
    try:
        return bool(np.abs(np.subtract(box, (0, 0, image["width"], image["height"]), dtype=float)).max() <= EDGE_SLACK)
    except (KeyError, TypeError, ValueError):
        return False


def _key(item: Mapping[str, Any], name: str) -> str:
    """An id as it can be compared: 1 and "1" are two."""
    return json.dumps(item.get(name))


def _by_id(items: Any, name: str, source: Path) -> dict[str, Mapping[str, Any]]:
    keys = Counter(_key(item, "id") for item in items) if _holds_objects(items) else Counter({"?": 2})
    if max(keys.values(), default=1) > 1:
        expected = f"objects with an id of their own under {name!r}"
        raise DataError(expected=expected, got="others", fix="correct them", where=escape(source))
    return {_key(item, "id"): item for item in items}


def _left_out(content: Any) -> tuple[str, ...]:
    """A note on COCO's pictures without an annotation."""
    if not isinstance(content, dict) or not _is_annotated(content):
        return ()
    told = {_key(item, "image_id") for item in content["annotations"]}
    n = sum(_key(item, "id") not in told for item in content["images"])
    return (f"not read: {number(n, 'picture')} without an annotation",) if n else ()


def _boxes(got: str, source: Path) -> DataError:
    fix = "cut the objects out into pictures of their own, or give one class per picture"
    return DataError(expected="one class per picture", got=f"boxes: {got}", fix=fix, where=escape(source))
