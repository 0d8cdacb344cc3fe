"""Tar shards in the WebDataset layout: files that share a key, as ``000012.jpg`` and ``000012.txt``, are one sample."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path

from clip_fewshot.data.listing import Entry, Listing, refuse_any
from clip_fewshot.data.names import SUFFIXES, escape, sort_key
from clip_fewshot.data.tar import contents, file_bytes
from clip_fewshot.data.text_files import decode_text
from clip_fewshot.errors import DataError

SUFFIX = ".tar"
TEXT_LIMIT = 1 << 20  # bytes of a sample's text
MOST_SHARDS = 100_000  # that one pattern may name
UNUSABLE = 0.01  # of the samples, one at least, may have a picture and a text that make no pair
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass
class _Found:
    """What was met in the shards: pairs, samples that make none and why, samples that lack a side."""

    entries: list[Entry] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    lonely: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    samples: int = 0
    refused: int = 0

    def warnings(self) -> tuple[str, ...]:
        """What was passed over, by kind."""
        kinds = (("samples whose text is no caption", self.unusable), ("samples without picture or text", self.lonely))
        notes = [f"passed over {len(names)} {kind}, the first: {names[0]}" for kind, names in kinds if names]
        return (*notes, *([f"passed over {self.refused} tar entries that are no regular files"] * (self.refused > 0)))


def read_shards(source: Path) -> Listing:
    """One entry per caption: each line of ``key.txt``, else ``"caption"`` in ``key.json``.

    Args:
        source: a .tar file, a folder of them, or a pattern as ``pairs-{00000..00031}.tar``.

    Raises:
        DataError: a shard that is missing, compressed or damaged (all are named), more samples with an unusable text
            than ``UNUSABLE`` allows, no pair.
    """
    found = _Found()
    for shard in shard_paths(source):
        _read_shard(shard, found)
    refuse_any(found.damaged, "whole, uncompressed tar archives", "make or download them again", source)
    if len(found.unusable) > max(1, int(UNUSABLE * found.samples)):
        refuse_any(found.unusable, "a caption in every text", "write one, or leave the sample out", source)
    if not found.entries:
        fix = "name them key.jpg and key.txt or key.json"
        raise DataError(expected="pictures and texts that share a key", got="no pair", fix=fix, where=escape(source))
    return Listing(source, tuple(found.entries), warnings=found.warnings())


def shard_paths(source: Path) -> list[Path]:
    """The archives that a path means: itself, those right in a folder, or those that a pattern names."""
    if source.is_dir():
        return sorted((path for path in source.iterdir() if path.suffix.lower() == SUFFIX), key=sort_key)
    return _expanded(str(source)) if is_pattern(source) else [source]


def is_pattern(source: Path) -> bool:
    """Whether a path, of no file itself, names archives by braces."""
    return source.suffix.lower() == SUFFIX and _BRACES.search(str(source)) is not None and not source.exists()


def _expanded(pattern: str) -> list[Path]:
    """``a{08..10}`` is a08, a09, a10, as in a shell; ``{x,y}`` is x, y; several groups multiply."""
    pieces = _BRACES.split(pattern)
    choices = [_choices(piece, pattern) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    if prod(map(len, choices)) > MOST_SHARDS:
        raise DataError(
            expected=f"at most {MOST_SHARDS:,} shards", got="more", fix="narrow the pattern", where=escape(pattern)
        )
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


def _read_shard(shard: Path, found: _Found) -> None:
    try:
        files, refused = contents(shard)
    except DataError as error:
        found.damaged.append(str(error))
        return
    found.refused += refused
    for pictures, texts in _samples(files):
        found.samples += 1
        if not pictures or not texts:
            found.lonely.append(f"{escape(shard)}/{escape((pictures or texts)[0])}")
            continue
        where = f"{escape(shard.name)}/{escape(texts[0])}"
        try:
            captions = _captions(shard / texts[0], where)
            if len(pictures) > 1:
                raise DataError(
                    expected="one picture per key",
                    got=" and ".join(map(escape, pictures)),
                    fix="rename one",
                    where=where,
                )
        except DataError as error:
            found.unusable.append(str(error))
            continue
        name = f"{shard.name}/{pictures[0]}"
        found.entries += [Entry(shard / pictures[0], name, caption=caption, where=where) for caption in captions]


def _samples(names: Iterable[str]) -> list[tuple[list[str], list[str]]]:
    """(pictures, texts) of each key that has any. The key ends at the first dot of a file's name; .txt comes first."""
    samples: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for name in names:
        folder, _, file = name.rpartition("/")
        stem, _, suffix = file.partition(".")
        if stem and f".{suffix.lower()}" in SUFFIXES:
            samples[f"{folder}/{stem}"][0].append(name)
        elif stem and suffix.lower() in ("txt", "json"):
            samples[f"{folder}/{stem}"][1].insert(0 if suffix.lower() == "txt" else 1, name)
    return list(samples.values())


def _captions(text: Path, where: str) -> list[str]:
    content = decode_text(file_bytes(text, TEXT_LIMIT) or b"", where)
    if text.suffix.lower() == ".json":
        captions = [_caption_of(content, where).strip()]
    else:
        captions = [line.strip() for line in content.split("\n") if line.strip()]
    if not any(captions):
        raise DataError(expected="a caption", got="none", fix='write lines of text, or {"caption": "..."}', where=where)
    return captions


def _caption_of(content: str, where: str) -> str:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(expected="JSON", got=str(error), fix="repair it", where=where) from error
    caption = parsed.get("caption") if isinstance(parsed, dict) else None
    return caption if isinstance(caption, str) else ""
