"""Other names for the classes of a set: texts are made of them, and answers say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import check_class_name, escape, list_first, number, refuse_names
from clip_fewshot.data.text_files import read_text
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.types import LabelSpace

ClassNames = str | Path | Sequence[str] | Mapping[str, str]


def rename_classes(dataset: ImageDataset, names: ClassNames) -> ImageDataset:
    """The same pictures and classes, called otherwise.

    Args:
        names: one per class in the order of the classes, where labels that are whole numbers count by their value (9
            before 10); or label -> name, for each class at least; or a text file of either: a name a line, or lines
            ``label<TAB>name`` or ``label,name``. A file has pairs where what stands before its tabs or first commas
            are labels of the set.

    Raises:
        DataError: too few or too many names, a class without one, a label with two, two classes of one name.
    """
    if dataset.labels is None:
        fix = "leave the names out, or use a source with a class per image"
        raise DataError(expected="labelled images", got="captions or nothing", fix=fix, where=dataset.name)
    labels = dataset.label_space.names
    where = escape(names) if isinstance(names, str | Path) else "`class_names`"
    if isinstance(names, str | Path):
        names = _read_names(Path(names), labels)
    by_label = names if isinstance(names, Mapping) else _in_order(names, labels, where)
    lacking = [label for label in labels if label not in by_label]
    if lacking:
        _refuse(
            f"a name for each of {number(len(labels), 'class', 'classes')}",
            f"none for {list_first(map(escape, lacking))}\n",
            where,
        )
    try:
        chosen = tuple(check_class_name(by_label[label].strip(), ()) for label in labels)
        renamed = replace(dataset, label_space=LabelSpace(chosen, dataset.label_space.former or labels))
    except UsageError as error:
        raise DataError(expected=error.expected, got=error.got, fix=error.fix, where=where) from error
    refuse_names(chosen, where)
    return renamed


def _in_order(names: Sequence[str], labels: Sequence[str], where: str) -> Mapping[str, str]:
    if len(names) != len(labels):
        _refuse(f"{len(labels)} names, one per class", f"{len(names)}", where)
    numbers = all(label.isdecimal() for label in labels)
    return dict(zip(sorted(labels, key=int) if numbers else labels, names, strict=True))


def _read_names(path: Path, labels: Sequence[str]) -> Sequence[str] | Mapping[str, str]:
    lines = {i: line.strip() for i, line in enumerate(read_text(path).split("\n"), start=1) if line.strip()}
    separator = "\t" if any("\t" in line for line in lines.values()) else ","
    pairs = {i: line.partition(separator) for i, line in lines.items()}
    if not any(mark and label.strip() in labels for label, mark, _ in pairs.values()):
        return [*lines.values()]
    found: dict[str, str] = {}
    for i, (label, _, name) in pairs.items():
        label, name, where = label.strip(), name.strip(), f"{escape(path)}:{i}"
        if not name:
            _refuse("a label and its name", repr(escape(label)), where)
        if found.setdefault(label, name) != name:
            _refuse(f"one name for {escape(label)}", f"{escape(found[label])!r} and {escape(name)!r}", where)
    return found


def _refuse(expected: str, got: str, where: str) -> NoReturn:
    fix = "write a name a line in the order of the classes, or `label,name` lines"
    raise DataError(expected=expected, got=got, fix=fix, where=where)
