"""Pictures and texts that share a stem, anywhere below a folder; each line of a text is a caption."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from clip_fewshot.data.folder import walk
from clip_fewshot.data.listing import Entry, Listing, refuse_any
from clip_fewshot.data.names import escape
from clip_fewshot.data.text_files import read_text
from clip_fewshot.errors import DataError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def read_pairs(source: Path) -> Listing:
    """One entry per caption: a picture with five lines of text is five entries.

    Raises:
        DataError: two pictures or two texts with one stem (both are named), a text without a caption, no pair.
    """
    tree = walk(source)
    pictures = _by_stem(tree.pictures, source)
    texts = _by_stem([path for path in tree.texts if path.stem in pictures], source)
    stems = [stem for stem in pictures if stem in texts]
    if not stems:
        raise DataError(
            expected="pictures and .txt files that share a stem", got="no pair", fix="rename them", where=escape(source)
        )
    _refuse_boxes({texts[stem]: read_text(source / texts[stem]) for stem in stems}, source)
    entries, blank = [], []
    for stem in stems:
        lines = enumerate(read_text(source / texts[stem]).split("\n"), start=1)
        found = [_entry(source, pictures[stem], line.strip(), texts[stem], n) for n, line in lines if line.strip()]
        entries += found
        blank += [] if found else [escape(texts[stem])]
    refuse_any(blank, "a caption in every text", "write one, or remove text and picture", source)
    lonely = [path for path in tree.pictures if path.stem not in texts] + [
        p for p in tree.texts if p.stem not in pictures
    ]
    warnings = [*tree.warnings(), *(f"{escape(path)} has no partner and was not read" for path in lonely[:1])]
    if len(lonely) > 1:
        warnings.append(f"so have {len(lonely) - 1} more")
    return Listing(source, tuple(entries), warnings=tuple(warnings))


def measure_shared_stems(pictures: list[Path], texts: list[Path]) -> float:
    """The fraction of ``pictures``, in [0, 1], that have a text of their stem."""
    stems = {path.stem for path in texts}
    return sum(path.stem in stems for path in pictures) / max(len(pictures), 1)


def _refuse_boxes(texts: Mapping[Path, str], source: Path) -> None:
    """Numbers, as the class and box of YOLO, or four and more beside a few words, as in KITTI and DOTA."""
    lines = [(path, re.split(r"[\s,;]+", line.strip())) for path, text in texts.items() for line in text.split("\n")]
    lines = [(path, words) for path, words in lines if any(words)]
    numbers = [sum(NUMBER.fullmatch(word) is not None for word in words) for _, words in lines]
    boxes = [p for (p, words), n in zip(lines, numbers, strict=True) if n >= 4 and 3 * n >= 2 * len(words)]
    if 2 * len(boxes) > len(lines):
        got = f"boxes: lines of numbers in {len(boxes)} texts, the first {escape(boxes[0])}"
        fix = "cut the objects out into pictures of their own, in a folder per class"
        raise DataError(expected="captions", got=got, fix=fix, where=escape(source))


def _by_stem(paths: list[Path], source: Path) -> dict[str, Path]:
    first: dict[str, Path] = {}
    collisions = [
        f"{escape(first[path.stem])} and {escape(path)}" for path in paths if first.setdefault(path.stem, path) != path
    ]
    refuse_any(collisions, "one picture and one text per stem", "rename one of each", source)
    return first


def _entry(source: Path, picture: Path, caption: str, text: Path, line: int) -> Entry:
    return Entry(source / picture, str(picture), caption=caption, where=f"{escape(text)}:{line}")
