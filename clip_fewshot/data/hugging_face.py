"""Hugging Face's data sets as Parquet: which columns hold pictures, classes and texts, and what the shards' names say.

``datasets`` notes in each file's metadata that a column is an ``Image``, or a ``ClassLabel`` with the names of its
numbers. A folder of ``train-00000-of-00001.parquet``, ``test-....parquet`` is divided by those names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.data.columns import list_candidates
from clip_fewshot.data.folder import count_beside, list_passed, walk
from clip_fewshot.data.listing import PARTITIONS, VALIDATION, VALIDATION_JOINED, Entry, Listing, part_of, refuse_any
from clip_fewshot.data.names import escape, number
from clip_fewshot.data.parquet import PARQUET, explain_damage, import_pyarrow, read_rows
from clip_fewshot.errors import DataError, UsageError

ROWS_AT_A_TIME = 256
LONGEST_TEXT = 1 << 20  # characters
ROLES = ("image", "label", "caption")


@dataclass(frozen=True)
class _Columns:
    """The column of each role, and the names of the classes where labels are numbers."""

    image: str
    label: str | None
    caption: str | None
    class_names: tuple[str, ...] | None


def parquet_paths(folder: Path) -> list[Path]:
    """The Parquet files below a folder, hidden ones left out."""
    return [folder / path for path in walk(folder).others if path.suffix.lower() == PARQUET]


def read_parquet(source: Path, columns: Mapping[str, str] | None = None) -> Listing:
    """An entry per row, or per text of a row that has several.

    Rows without a class (-1, or empty), as of many test sets, are left out with a warning.

    Args:
        source: a Parquet file, or a folder of them.
        columns: role (image, label, caption) -> name of a column, where the metadata and the names do not say it.

    Raises:
        DataError: no column of pictures, or of what they show; several that may be meant; a damaged file; a label
            without a name.
        UsageError: another role. ResourceError: no pyarrow.
    """
    files = parquet_paths(source) if source.is_dir() else [source]
    entries, problems, notes = list[Entry](), list[str](), list[str]()
    unlabelled, names, sides = Counter[str](), dict[str, None](), set[str]()
    for file in files:
        chosen = _choose(file, columns or {})
        side = part_of(file.stem, file.parent.name if source in file.parent.parents else "")
        sides.add(side)
        names |= dict.fromkeys(chosen.class_names or ())
        for row, label, texts in _rows(file, chosen):
            name = f"{file.relative_to(source) if source.is_dir() else file.name}/{row}"
            entry = Entry(file / chosen.image / str(row), name, label, None, PARTITIONS.get(side, ""), escape(name))
            if chosen.label is not None and label is None:
                unlabelled[file.name] += 1
            elif chosen.caption is None:
                entries.append(entry)
            elif all(0 < len(text) <= LONGEST_TEXT for text in texts) and texts:
                entries += [entry._replace(caption=text) for text in texts]
            else:
                problems.append(f"{escape(name)}: no text, or one of more than {LONGEST_TEXT:,} characters")
    refuse_any(problems, "rows with a picture and what it shows", "correct them", source)
    refuse_any([] if entries else ["no row at all"], "rows with pictures", "check the files", source)
    notes += list_passed(count_beside(source, PARQUET))
    notes += [f"left out: {number(n, 'row')} of {escape(name)} without a class" for name, n in unlabelled.items()]
    notes += [VALIDATION_JOINED] if sides & {*VALIDATION} else []
    present = {entry.label for entry in entries}
    class_names = tuple(name for name in names if name in present) or None
    return Listing(source, tuple(entries), class_names, tuple(notes))


def _rows(file: Path, chosen: _Columns) -> Iterator[tuple[int, str | None, list[str]]]:
    """(number, class, texts) of each row; the pictures are not read."""
    names = [name for name in (chosen.label, chosen.caption) if name is not None]
    number = 0
    for rows in read_rows(file, names, ROWS_AT_A_TIME):
        for cells in rows:
            cell = dict(zip(names, cells, strict=True))
            label = _class_of(cell.get(chosen.label or ""), chosen.class_names, f"{escape(file)}/{number}")
            yield number, label, _texts_of(cell.get(chosen.caption or ""))
            number += 1


def _class_of(value: Any, names: Sequence[str] | None, where: str) -> str | None:
    if value is None or value == "" or (names is not None and value == -1):
        return None
    if names is None:
        return str(value).strip() or None
    if not 0 <= value < len(names):
        expected = f"labels from 0 to {len(names) - 1}, or -1 for none"
        raise DataError(expected=expected, got=str(value), fix="correct the table", where=where)
    return str(names[value])


def _texts_of(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    return [text.strip() for text in texts if isinstance(text, str) and text.strip()]


def _choose(file: Path, wanted: Mapping[str, str]) -> _Columns:
    arrow, parquet = import_pyarrow()
    with explain_damage(file):
        schema = parquet.read_schema(file)
    for role in wanted.keys() - {*ROLES}:
        fix = "write image=..., label=... or caption=..."
        raise UsageError(expected=f"one of {', '.join(ROLES)}", got=repr(role), fix=fix, where="`columns`")
    features, types = _features(schema.metadata or {}), arrow.types
    of = {name: schema.field(name).type for name in schema.names}
    kinds = {name: feature.get("_type") for name, feature in features.items()}
    pictures = [n for n in of if kinds.get(n) == "Image"] or [n for n in of if _is_picture(of[n], types)]
    classes = [n for n in of if kinds.get(n) == "ClassLabel"]
    words = [n for n in of if types.is_integer(of[n]) or _is_text(of[n], types)]
    texts = [n for n in of if _is_text(of[n], types) or (types.is_list(of[n]) and _is_text(of[n].value_type, types))]
    chosen = {
        "image": _one("image", pictures, pictures, wanted, file),
        "label": _one("label", classes, words, wanted, file),
        "caption": _one("caption", [], texts, wanted, file),
    }
    image, label, caption = (chosen[role] for role in ROLES)
    if image is None or (label is None and caption is None):
        got = f"columns {', '.join(repr(escape(n)) for n in schema.names[:20])}"
        fix = "name them with `columns`, as image=COLUMN,label=COLUMN"
        expected = "a column of pictures, and one of classes or texts"
        raise DataError(expected=expected, got=got, fix=fix, where=escape(file))
    if image in (".", "..") or "/" in image or "\\" in image:
        raise DataError(
            expected="a column name without / ", got=repr(escape(image)), fix="rename it", where=escape(file)
        )
    names = features.get(label or "", {}).get("names") if label in classes else None
    return _Columns(image, label, caption, tuple(map(str, names)) if isinstance(names, list) else None)


def _one(role: str, told: list[str], fitting: list[str], wanted: Mapping[str, str], file: Path) -> str | None:
    """The column of a role: the user's, the one that the metadata tell, or the one that its name tells."""
    if role in wanted:
        if wanted[role] not in fitting:
            got = f"{wanted[role]!r}, and {', '.join(map(repr, fitting)) or 'none'} that could be"
            fix = "name another in `columns`"
            raise DataError(expected=f"a column of kind {role}", got=escape(got), fix=fix, where=escape(file))
        return wanted[role]
    if len(told) == 1:
        return told[0]
    among = told or fitting
    named = [among[i] for i in list_candidates(among, role)]
    if not named and len(told) > 1:
        got, fix = ", ".join(map(repr, told)), f"name one in `columns`, as {role}={told[0]}"
        raise DataError(expected=f"one column of kind {role}", got=escape(got), fix=escape(fix), where=escape(file))
    return named[0] if named else None


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """What ``datasets`` noted of each column; empty where it noted nothing, or nothing that can be read."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def _is_picture(kind: Any, types: Any) -> bool:
    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type, types) for field in kind)
    return _is_binary(kind, types)


def _is_binary(kind: Any, types: Any) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_text(kind: Any, types: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))
