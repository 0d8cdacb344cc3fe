"""Which folders of a tree are its classes, and which its parts: shown by its form, or asked for.

A way is the folders from the source down to a picture. A form is taken where the ways leave one reading; where they
leave two, as ``Greek/alpha`` or ``cat/monday``, the tree is refused and every reading is named.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from clip_fewshot.data.base_folder import IMAGE_FOLDERS
from clip_fewshot.data.listing import PARTITIONS, VALIDATION, VALIDATION_JOINED
from clip_fewshot.data.names import escape, number, sort_key
from clip_fewshot.errors import DataError, UsageError

Way = tuple[str, ...]
PIECES = ("part", "batch", "chunk", "shard")  # of a set that was too large for one archive
NAMES_SHOWN = 3  # classes of a reading that an error names


class TreeForm(NamedTuple):
    """What the folders on a way say.

    Attributes:
        classes: those that make the class, counted from 0.
        part: the one that is train or test, or None.
        sides: name of such a folder -> "train" or "test".
        notes: what was decided.
    """

    classes: slice
    part: int | None = None
    sides: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()

    def side(self, way: Way) -> str:
        """The part of a picture; "" where there is none."""
        return self.sides.get(way[self.part], "") if self.part is not None and len(way) > self.part else ""

    def label(self, way: Way) -> str | None:
        """The class of a picture; None for one that lies in no class folder, or beside train and test."""
        if self.part is not None and not self.side(way):
            return None
        return "/".join(way[self.classes]) or None

    def joined(self) -> list[str]:
        """The note on validation pictures, if there are any."""
        return [VALIDATION_JOINED] if any(_part_word(name) in VALIDATION for name in self.sides) else []


def find_form(ways: Sequence[Way], where: Path, innermost: bool = False) -> TreeForm:
    """The form of a tree.

    Args:
        ways: of its pictures.
        where: the tree, for errors.
        innermost: the class is all folders below train and test, whatever they are.

    Raises:
        DataError: the folders can be read in two ways, or some of them are no classes.
    """
    depth = _skip(ways, 0)
    notes = [f"the folders are read below {escape('/'.join(_shared(ways, depth)))}"] if depth else []
    sides, part = _find_sides(ways, depth, where), None
    if sides:
        ways, part = [way for way in ways if len(way) > depth and way[depth] in sides], depth
        depth = _skip(ways, depth + 1, part)
    if innermost:
        return TreeForm(slice(depth, None), part, sides, tuple(notes))
    inner = {way[depth + 1] for way in ways if len(way) == depth + 2}
    if part is None and ways and inner and all(len(way) == depth + 2 for way in ways) and inner <= _parts(inner).keys():
        return TreeForm(slice(depth, depth + 1), depth + 1, _parts(inner), tuple(notes))
    classes, more = _find_classes(ways, depth, where)
    form = TreeForm(classes, part, sides, (*notes, *more))
    _refuse_lonely(form, ways, where)
    return form


def find_parts(ways: Sequence[Way], where: Path) -> TreeForm:
    """Train and test alone; none where folders may be parts or not."""
    try:
        return find_form(ways, where, innermost=True)
    except DataError:
        return TreeForm(slice(0, None))


def form_at(ways: Sequence[Way], depth: int, where: Path) -> TreeForm:
    """The form in which the ``depth``-th folder on each way, from 1, is the class, and another may be train or test."""
    if depth < 1:
        raise UsageError(expected="1 or more", got=str(depth), fix="1 is the outermost", where="`classes_at`")
    ways = [way for way in ways if len(way) >= depth]
    if not ways:
        got, fix = "no picture that lies so deep", "name a smaller depth"
        raise DataError(expected=f"classes at depth {depth}", got=got, fix=fix, where=escape(where))
    classes = slice(depth - 1, depth)
    for part in range(min(map(len, ways))):
        names = {way[part] for way in ways}
        if part != depth - 1 and names <= _parts(names).keys():
            return TreeForm(classes, part, _parts(names))
    return TreeForm(classes)


def _skip(ways: Sequence[Way], depth: int, part: int | None = None) -> int:
    """The depth below folders that only hold folders, one in the tree or one in each part: an archive's own name."""
    while True:
        there = {(way[part] if part is not None else "", way[depth]) for way in ways if len(way) > depth}
        alone = bool(there) and len({side for side, _ in there}) == len(there)
        deeper = sum(len(way) > depth + 1 for way in ways)
        other = len({name for _, name in there}) == len(there) > 1  # train/train and test/test
        if (
            not alone
            or (2 * deeper <= len(ways) and not other)
            or (part is None and _parts({name for _, name in there}))
        ):
            return depth
        depth += 1


def _shared(ways: Sequence[Way], depth: int) -> Way:
    return next(way[:depth] for way in ways if len(way) > depth)


def _parts(names: Iterable[str]) -> dict[str, str]:
    """Those of ``names`` that are parts: train and test, or else seg_train and seg_test, train2017 and val2017."""
    exact = {name: PARTITIONS[name.casefold()] for name in names if name.casefold() in PARTITIONS}
    if exact:
        return exact
    alike: dict[Way, dict[str, str]] = defaultdict(dict)  # by what stands around the word
    for name in names:
        if (said := _part_word(name)) is not None:
            alike[tuple(word for word in _words(name) if word != said)][name] = PARTITIONS[said]
    return next((found for found in alike.values() if len(found) > 1), {})


def _part_word(name: str) -> str | None:
    """The one word of a folder's name that says train, val or test: ``val`` of ``Val2017`` and ``val_images``."""
    said = [word for word in _words(name) if word in PARTITIONS]
    return said[0] if len(said) == 1 else None


def _words(name: str) -> list[str]:
    words = (word.casefold() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name))
    return [word.removesuffix("set") or word for word in words]


def _find_sides(ways: Sequence[Way], depth: int, where: Path) -> dict[str, str]:
    """Train and its fellows at ``depth``; none where ``train`` is a class beside others.

    Raises:
        DataError: they may be parts or classes.
    """
    names = sorted({way[depth] for way in ways if len(way) > depth}, key=sort_key)
    sides = _parts(names)
    others = [name for name in names if name not in sides]
    holding = {way[depth] for way in ways if len(way) == depth + 1}
    training = {name for name, side in sides.items() if side == "train"}
    if not sides or not others or (len(sides) > 1 and training - holding):
        return sides
    if len(sides) == 1 and training <= holding and next(iter(sides)).casefold() in ("train", "training"):
        return {}  # a vehicle
    parts, beside = (", ".join(map(escape, some[:NAMES_SHOWN])) for some in ([*sides], others))
    deep = any(len(way) > depth + 1 for way in ways)
    fix = f"`classes_at`={depth + 1} if all are classes" + (f", {depth + 2} if they are parts" if deep else "")
    raise DataError(
        expected="folders of parts, or of classes",
        got=f"{parts} beside {beside}",
        fix=f"say which folders are the classes: {fix}; or move one kind elsewhere",
        where=escape(where),
    )


def _find_classes(ways: Sequence[Way], depth: int, where: Path) -> tuple[slice, list[str]]:
    """Which folders from ``depth`` on are the class, and what is said of it."""
    below = [way[depth:] for way in ways if len(way) > depth]
    tops = sorted({way[0] for way in below}, key=sort_key)
    if len(tops) > 1:
        _refuse_containers(tops, depth, where)
    inner: dict[str, set[Way]] = defaultdict(set)
    for way in below:
        inner[way[0]].add(way[1:])
    if below and all(len(way) > 1 and len(way[0]) == 1 and _starts_alike(way[0], way[1]) for way in below):
        return slice(depth + 1, None), ["the outer folders are first letters: the folders in them are the classes"]
    if any(() not in ends and len(ends) > 1 for ends in inner.values()):
        raise _ambiguous(below, depth, where)
    deeper = sum(len(way) > 1 for way in below)
    note = f"{deeper} of {number(len(below), 'picture')} deeper than the folders that are read as classes"
    return slice(depth, depth + 1), [f"{note}, the first: {escape(tops[0])}"] if 2 * deeper > len(below) else []


def _starts_alike(letter: str, name: str) -> bool:
    return name[:1].casefold() == letter.casefold()


def _refuse_containers(tops: Sequence[str], depth: int, where: Path) -> None:
    """``images`` beside ``masks`` are no classes, nor are ``images_001`` and ``images_002``, nor ``part_1`` ..."""
    named = [top for top in tops if top.casefold() in IMAGE_FOLDERS]
    if len({re.sub(r"\d+", "", top) for top in tops}) == 1 and {*_words(tops[0])} & {*IMAGE_FOLDERS, *PIECES}:
        named = [tops[0]]
    if named:
        others = ", ".join([escape(top) for top in tops if top not in named][:NAMES_SHOWN])
        got = f"{escape(named[0])} beside {others}, which are no classes of pictures"
        fix = f"name the folder or table that holds the classes; `classes_at`={depth + 1} if these are classes"
        raise DataError(expected="a folder per class", got=got, fix=fix, where=escape(where))


def _refuse_lonely(form: TreeForm, ways: Sequence[Way], where: Path) -> None:
    """A part whose only folder is no class of the others, as ``test/unlabelled``, has no class folders."""
    classes: dict[str, set[str]] = defaultdict(set)
    for way in ways:
        if (label := form.label(way)) is not None and form.part is not None:
            classes[way[form.part]].add(label)
    for name, own in classes.items():
        others = set[str]().union(*(them for other, them in classes.items() if other != name))
        if len(own) == 1 and others and not own & others:
            raise DataError(
                expected=f"class folders in {escape(name)}, as in the other parts",
                got=f"one folder, {escape(next(iter(own)))}, which is no class there",
                fix="move it elsewhere, or rename it as its class",
                where=escape(where),
            )


def _ambiguous(below: Sequence[Way], depth: int, where: Path) -> DataError:
    """Every reading of folders in folders, with the classes that it gives."""
    levels = range(min(map(len, below)) or 1)
    found = {f"`classes_at`={depth + level + 1}": {way[level] for way in below} for level in levels}
    found["`format`=leaves"] = {"/".join(way) for way in below}
    readings = [f"{option} ({len(names)}: {_some(names)})" for option, names in found.items()]
    got = "folders in folders" if min(map(len, below)) > 1 else "pictures beside folders of pictures"
    fix = f"say which are the classes: {', '.join(readings)}"
    raise DataError(expected="class folders at one depth", got=got, fix=fix, where=escape(where))


def _some(names: set[str]) -> str:
    first = sorted(names, key=sort_key)[:NAMES_SHOWN]
    return ", ".join(map(escape, first)) + (" ..." if len(names) > NAMES_SHOWN else "")
