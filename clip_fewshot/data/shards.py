"""Tar shards in the WebDataset layout: files that share a key, as ``000012.jpg`` and ``000012.cls``, are one sample."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from clip_fewshot.data.columns import list_candidates
from clip_fewshot.data.folder import count_beside, kind_of, list_passed, walk
from clip_fewshot.data.listing import PARTITIONS, VALIDATION, VALIDATION_JOINED, Entry, Listing, part_of, refuse_any
from clip_fewshot.data.names import SUFFIXES, SYSTEM_NAMES, escape, number
from clip_fewshot.data.tar import contents, file_bytes
from clip_fewshot.data.text_files import decode_text
from clip_fewshot.errors import DataError

SUFFIX = ".tar"
TEXT_LIMIT = 1 << 20  # bytes of a sample's text
MOST_SHARDS = 100_000  # that one pattern may name
UNUSABLE = 0.01  # of the samples, one at least, may have a picture beside a text of no use
TEXT_ENDS = ("txt", "json", "cls")  # the first of a sample is named in messages
_BRACES = re.compile(r"\{([^{}]*)\}")


class _Sample(NamedTuple):
    """A picture and what stands beside it under its key."""

    path: Path
    name: str
    where: str
    label: str | None
    captions: list[str]
    side: str


@dataclass
class _Found:
    """What was met in the shards: samples, those that are of no use and why, those that lack a side."""

    passed: Counter[str]
    samples: list[_Sample] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    lonely: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    met: int = 0

    def warnings(self) -> tuple[str, ...]:
        """What was passed over, by kind."""
        kinds = (("whose text is of no use", self.unusable), ("without picture or text", self.lonely))
        notes = [
            f"passed over {number(len(names), 'sample')} {kind}, the first: {names[0]}"
            for kind, names in kinds
            if names
        ]
        return (*notes, *list_passed(self.passed))


def read_shards(source: Path) -> Listing:
    """One entry per caption, or per picture where there are classes alone.

    Captions are the lines of ``key.txt``, else ``"caption"`` in ``key.json``. The class is what ``key.cls`` says, a
    number or a name, else ``"label"``, ``"class"`` and the like in ``key.json``. What not all samples have, captions
    or classes, is left out; where neither is in all, samples without the more frequent one are.

    Args:
        source: a .tar file, a folder of them, or a pattern as ``pairs-{00000..00031}.tar``.

    Raises:
        DataError: a shard that is missing, compressed or damaged (all are named), more samples with an unusable text
            than ``UNUSABLE`` allows, no pair.
    """
    found = _Found(count_beside(source, SUFFIX))
    for shard in shard_paths(source):
        _read_shard(shard, found, shard.parent.name if source in shard.parent.parents else "")
    refuse_any(found.damaged, "whole, uncompressed tar archives", "make or download them again", source)
    if len(found.unusable) > max(1, int(UNUSABLE * found.met)):
        refuse_any(found.unusable, "a caption or a class in every text", "write one, or leave the sample out", source)
    if not found.samples:
        fix = "name them key.jpg and key.txt, key.json or key.cls"
        raise DataError(expected="pictures and texts that share a key", got="no pair", fix=fix, where=escape(source))
    entries, notes = _alike(found.samples)
    return Listing(source, tuple(entries), warnings=(*found.warnings(), *notes))


def _alike(samples: Sequence[_Sample]) -> tuple[list[Entry], list[str]]:
    """Entries that all have labels, or captions, or both, and what was left out for that."""
    labelled, captioned = (sum(map(bool, side)) for side in zip(*((s.label, s.captions) for s in samples), strict=True))
    by_caption = captioned >= labelled
    kept = [s for s in samples if (s.captions if by_caption else s.label)]
    with_label, with_caption = all(s.label for s in kept), all(s.captions for s in kept)
    notes = [
        f"left out the {what} of {number(have, 'sample')}: {number(len(kept) - have, 'other')} without"
        for what, have, all_have in (
            ("class", sum(bool(s.label) for s in kept), with_label),
            ("caption", sum(bool(s.captions) for s in kept), with_caption),
        )
        if have and not all_have
    ]
    if len(kept) < len(samples):
        notes.append(
            f"passed over {number(len(samples) - len(kept), 'sample')} without a {'caption' if by_caption else 'class'}"
        )
    notes += [VALIDATION_JOINED] if {s.side for s in kept} & {*VALIDATION} else []
    return [
        Entry(s.path, s.name, s.label if with_label else None, caption, PARTITIONS.get(s.side, ""), s.where)
        for s in kept
        for caption in (s.captions if with_caption else [None])
    ], notes


def shard_paths(source: Path) -> list[Path]:
    """The archives that a path means: itself, those in a folder, or those that a pattern names."""
    if source.is_dir():
        return [source / path for path in walk(source).others if path.suffix.lower() == SUFFIX]
    return _expanded(str(source)) if is_pattern(source) else [source]


def is_pattern(source: Path) -> bool:
    """Whether a path, of no file itself, names archives by braces."""
    return source.suffix.lower() == SUFFIX and _BRACES.search(str(source)) is not None and not os.path.exists(source)


def _expanded(pattern: str) -> list[Path]:
    """``a{08..10}`` is a08, a09, a10, as in a shell; ``{x,y}`` is x, y; several groups multiply."""
    pieces = _BRACES.split(pattern)
    choices = [_choices(piece, pattern) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    if prod(map(len, choices)) > MOST_SHARDS:
        fix = "narrow the pattern"
        raise DataError(expected=f"at most {MOST_SHARDS:,} shards", got="more", fix=fix, where=escape(pattern))
    return [Path("".join(parts)) for parts in product(*choices)]


def _choices(group: str, pattern: str) -> list[str]:
    bounds = re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", group)
    if bounds is None:
        return group.split(",")
    first, last = int(bounds[1]), int(bounds[2])
    if not first <= last < first + MOST_SHARDS:
        expected = f"a range of 1 to {MOST_SHARDS:,} shards"
        raise DataError(expected=expected, got=f"{{{group}}}", fix="write it as {00000..00031}", where=escape(pattern))
    padded = any(len(bound) > 1 and bound.startswith("0") for bound in bounds.groups())
    width = max(map(len, bounds.groups())) if padded else 0
    return [f"{number:0{width}d}" for number in range(first, last + 1)]


def _read_shard(shard: Path, found: _Found, folder: str) -> None:
    try:
        files, refused = contents(shard)
    except DataError as error:
        found.damaged.append(str(error))
        return
    found.passed["tar entries that are no regular files"] += refused
    for pictures, texts in _by_key(files, found.passed):
        found.met += 1
        if not pictures or not texts:
            found.lonely.append(f"{escape(shard)}/{escape((pictures or [*texts.values()])[0])}")
            continue
        where = f"{escape(shard.name)}/{escape(next(texts[end] for end in TEXT_ENDS if end in texts))}"
        try:
            label, captions = _read_texts(shard, texts, where)
            if len(pictures) > 1:
                got = " and ".join(map(escape, pictures))
                raise DataError(expected="one picture per key", got=got, fix="rename one", where=where)
        except DataError as error:
            found.unusable.append(str(error))
            continue
        name, side = f"{shard.name}/{pictures[0]}", part_of(shard.stem, folder, pictures[0].partition("/")[0])
        found.samples.append(_Sample(shard / pictures[0], name, where, label, captions, side))


def _by_key(names: Iterable[str], passed: Counter[str]) -> list[tuple[list[str], dict[str, str]]]:
    """(pictures, texts by ending) of each key that has any; other files are counted in ``passed``.

    The key ends at the last dot, so that ``shop v2.0.jpg`` has one. By the convention of WebDataset it ends at the
    first, and what stands behind that here is no ending that we read.
    """
    samples: dict[str, tuple[list[str], dict[str, str]]] = defaultdict(lambda: ([], {}))
    for name in names:
        folder, _, file = name.rpartition("/")
        stem, _, end = file.rpartition(".")
        if file.startswith(".") or not SYSTEM_NAMES.isdisjoint(name.casefold().split("/")):
            passed["hidden or system files"] += 1
        elif stem and f".{end.lower()}" in SUFFIXES:
            samples[f"{folder}/{stem}"][0].append(name)
        elif not stem or end.lower() not in TEXT_ENDS:
            passed[kind_of(Path(file))] += 1
        elif samples[f"{folder}/{stem}"][1].setdefault(end.lower(), name) != name:
            passed["texts beside another of their name"] += 1
    return list(samples.values())


def _read_texts(shard: Path, texts: Mapping[str, str], where: str) -> tuple[str | None, list[str]]:
    """The class and the captions of a sample; the one, or the others, may be missing."""
    said = {end: decode_text(file_bytes(shard / name, TEXT_LIMIT) or b"", where) for end, name in texts.items()}
    label = _class_of(said["cls"], where) if "cls" in said else None
    captions = [line.strip() for line in said.get("txt", "").split("\n") if line.strip()]
    if "json" in said:
        fields = _fields_of(said["json"], where)
        caption = fields.get("caption")
        captions = captions or ([caption.strip()] if isinstance(caption, str) and caption.strip() else [])
        label = label or _name_of(fields)
    if not captions and label is None:
        fix = 'write lines of text, {"caption": "..."}, or a class'
        raise DataError(expected="a caption or a class", got="none", fix=fix, where=where)
    return label, captions


def _class_of(text: str, where: str) -> str:
    label = text.strip()
    if not label or "\n" in label:
        got = "more than one line" if label else "none"
        raise DataError(expected="a class in .cls", got=got, fix="write its number or its name", where=where)
    return label


def _fields_of(content: str, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(expected="JSON", got=str(error), fix="repair it", where=where) from error
    return parsed if isinstance(parsed, dict) else {}


def _name_of(fields: Mapping[str, Any]) -> str | None:
    """The class that a JSON object states: a name rather than a number."""
    keys = [*fields]
    values = [fields[keys[number]] for number in list_candidates(keys, "label")]
    names = [value.strip() for value in values if isinstance(value, str) and value.strip()]
    names.sort(key=str.isdigit)  # of a number and a name, both texts, the name
    return next(iter([*names, *(str(value) for value in values if type(value) is int)]), None)
