"""Pictures and texts that share a stem, anywhere below a folder; each line of a text is a caption."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from clip_fewshot.data.folder import Tree, walk
from clip_fewshot.data.listing import Entry, Listing, refuse_any
from clip_fewshot.data.names import escape
from clip_fewshot.data.text_files import read_text
from clip_fewshot.data.tree_form import TreeForm, find_parts
from clip_fewshot.errors import DataError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def read_pairs(source: Path) -> Listing:
    """One entry per caption: a picture with five lines of text is five entries.

    Raises:
        DataError: two pictures or two texts with one stem (both are named), a text without a caption, no pair.
    """
    tree = walk(source)
    form = find_parts([path.parts[:-1] for path in tree.pictures], source)
    pairs = _match(tree, form, source)
    if not pairs:
        expected = "pictures and .txt files that share a stem"
        raise DataError(expected=expected, got="no pair", fix="rename them", where=escape(source))
    lines = {text: read_text(source / text).split("\n") for text in pairs.values()}
    _refuse_boxes(lines, source)
    blank = [escape(text) for text, said in lines.items() if not any(map(str.strip, said))]
    refuse_any(blank, "a caption in every text", "write one, or remove text and picture", source)
    entries = [
        Entry(source / picture, str(picture), None, line.strip(), form.side(picture.parts), f"{escape(text)}:{n}")
        for picture, text in pairs.items()
        for n, line in enumerate(lines[text], start=1)
        if line.strip()
    ]
    lonely = [path for path in (*tree.pictures, *tree.texts) if path not in pairs and path not in lines]
    warnings = [*tree.warnings(), *(f"{escape(path)} has no partner and was not read" for path in lonely[:1])]
    if len(lonely) > 1:
        warnings.append(f"so have {len(lonely) - 1} more")
    warnings += form.joined()
    return Listing(source, tuple(entries), warnings=tuple(warnings))


def _match(tree: Tree, form: TreeForm, source: Path) -> dict[Path, Path]:
    """Picture -> text of its stem; where stems come twice, of its stem in the same folder or in the same part.

    Raises:
        DataError: two pictures or two texts of one stem cannot be told apart.
    """
    keys: tuple[Callable[[Path], object], ...] = (
        lambda path: path.stem,
        lambda path: path.with_suffix(""),
        lambda path: (form.side(path.parts), path.stem),
    )
    found = [_matched(tree, key) for key in keys]
    pairs, collisions = max(found, key=lambda one: 0 if one[1] else len(one[0]))  # of equals the first
    refuse_any(collisions, "one picture and one text per stem", "rename one of each", source)
    return pairs


def _matched(tree: Tree, key: Callable[[Path], object]) -> tuple[dict[Path, Path], list[str]]:
    """The pairs under a key, and what has the key of another."""
    pictures, twice = _by_key(tree.pictures, key)
    texts, more = _by_key([path for path in tree.texts if key(path) in pictures], key)
    return {picture: texts[one] for one, picture in pictures.items() if one in texts}, [*twice, *more]


def measure_shared_stems(pictures: list[Path], texts: list[Path]) -> float:
    """The fraction of ``pictures``, in [0, 1], that have a text of their stem."""
    stems = {path.stem for path in texts}
    return sum(path.stem in stems for path in pictures) / max(len(pictures), 1)


def _refuse_boxes(texts: Mapping[Path, list[str]], source: Path) -> None:
    """Numbers, as the class and box of YOLO, or four and more beside a few words, as in KITTI and DOTA."""
    lines = [
        (path, re.split(r"[\s,;]+", line.strip())) for path, said in texts.items() for line in said if line.strip()
    ]
    numbers = [sum(NUMBER.fullmatch(word) is not None for word in words) for _, words in lines]
    boxes = [p for (p, words), n in zip(lines, numbers, strict=True) if n >= 4 and 3 * n >= 2 * len(words)]
    if 2 * len(boxes) > len(lines):
        got = f"boxes: {len(boxes)} lines of numbers, the first in {escape(boxes[0])}"
        fix = "cut the objects out into pictures of their own, in a folder per class"
        raise DataError(expected="captions", got=got, fix=fix, where=escape(source))


def _by_key(paths: list[Path], key: Callable[[Path], object]) -> tuple[dict[object, Path], list[str]]:
    first: dict[object, Path] = {}
    twice = [f"{escape(first[key(p)])} and {escape(p)}" for p in paths if first.setdefault(key(p), p) != p]
    return first, twice
