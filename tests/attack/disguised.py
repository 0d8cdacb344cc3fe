"""The same pictures under the same labels, told by tables and trees of many forms: read as they are, or refused.

Never read as other labels, and never fewer pictures without a word: what is left out is listed as skipped or warned of.
The plain forms must be accepted.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

import clip_fewshot as cf
from tests.attack import scene
from tests.attack.apart import fresh
from tests.attack.harness import Attack, Outcome, shuffled
from tests.data.pictures import put

HEADERS = {"image,label": True, "filename,label": True, "filepath,labels": False, "Image,Label": False, "": False,
           "path,class": False, "file_name,category": False, "filename,class": False, "id,label": False}  # fmt: skip
PATHS: dict[str, Callable[[str], str]] = {
    "plain": lambda path: path,
    "./": lambda path: f"./{path}",
    "backslashes": lambda path: path.replace("/", "\\"),
    "no suffix": lambda path: path.removesuffix(".png"),
    "upper suffix": lambda path: path.removesuffix("png") + "PNG",
    "blanks around": lambda path: f" {path} ",
    "quoted": lambda path: f'"{path}"',
}
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "comma and blank": ", "}
ENCODINGS = {"utf-8": "utf-8", "with a mark": "utf-8-sig", "utf-16": "utf-16"}
ENDS: dict[str, Callable[[list[str]], str]] = {
    "plain": lambda rows: "\n".join([*rows, ""]),
    "CRLF": lambda rows: "\r\n".join([*rows, ""]),
    "no end": lambda rows: "\n".join(rows),
    "empty rows": lambda rows: "\n".join([*rows, "", "", ""]),
    "empty columns": lambda rows: "\n".join([f"{row},," for row in rows] + [""]),
    "row numbers": lambda rows: "\n".join([f"{'' if i == 0 else i},{row}" for i, row in enumerate(rows)] + [""]),
}


class Table(NamedTuple):
    """A form of table, by the keys above."""

    header: str
    paths: str
    separator: str
    encoding: str
    end: str

    @property
    def is_plain(self) -> bool:
        return HEADERS[self.header] and self[1:] == ("plain", "comma", "utf-8", "plain")


@cache
def tables() -> list[Table]:
    """All forms, mixed."""
    return shuffled(itertools.starmap(Table, itertools.product(HEADERS, PATHS, SEPARATORS, ENCODINGS, ENDS)))


def _truth(folder: Path) -> dict[str, str]:
    photos = scene.photos(folder)
    return {str(path.relative_to(photos)): path.parent.name for path in sorted(photos.glob("*/*.png"))}


def strike_table(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    form, place, truth = tables()[number], fresh(folder, "disguised"), _truth(folder)
    shutil.copytree(scene.photos(folder), place / "data")
    between = SEPARATORS[form.separator]
    rows = [between.join((PATHS[form.paths](path), label)) for path, label in truth.items()]
    rows = [*([form.header.replace(",", between)] if form.header else []), *rows]
    table = place / "data" / "labels.csv"
    table.write_bytes(ENDS[form.end](rows).encode(ENCODINGS[form.encoding]))
    return _judge(table, truth, form.is_plain, str(tuple(form)))


def _nest(*above: str) -> Callable[[Path, str], Path]:
    return lambda root, path: root.joinpath(*above, path)


TREES: dict[str, Callable[[Path, str], Path]] = {
    "plain": _nest(),
    "unpacked": _nest("photos"),
    "unpacked twice": _nest("photos", "photos"),
    "images": _nest("images"),
    "dated": lambda root, path: root / path.split("/")[0] / "2024" / path.split("/")[1],
    "sides": lambda root, path: root / ("test" if path.endswith(("8.png", "9.png")) else "train") / path,
    "sides below": lambda root, path: root.joinpath(*path.split("/")[:1], "test" if path[-5] in "89" else "train",
                                                    path.split("/")[1]),
    "one deeper": lambda root, path: root / path.replace("wasp/", "wasp/more/"),
    "upper": lambda root, path: root / path.upper(),
}  # fmt: skip
JUNK: dict[str, Callable[[Path], object]] = {
    "none": lambda root: None,
    "thumbnails of a NAS": lambda root: put(root / "@eaDir" / "0.png" / "THUMB.png", 1),
    "of a Mac": lambda root: put(root / "__MACOSX" / "ant" / "._0.png", b"\0\5\x16\7" * 30),
    "a desktop file": lambda root: put(root / ".DS_Store", b"\0\0\0\1Bud1"),
    "a readme": lambda root: put(root / "README.md", "photos of insects"),
    "a hollow class": lambda root: (root / "hollow").mkdir(parents=True, exist_ok=True),
    "a loose picture": lambda root: put(root / "loose.png", 5),
    "a broken picture": lambda root: put(root / "ant" / "broken.png", b"\x89PNG\r\n\x1a\n"),
    "a copy elsewhere": lambda root: put(root / "bee" / "copy.png", 77) and put(root / "ant" / "copy.png", 77),
}
FINE = {("plain", "none"), ("sides", "none"), ("plain", "a desktop file"), ("plain", "a readme"),
        ("plain", "of a Mac"), ("plain", "thumbnails of a NAS")}  # fmt: skip


@cache
def trees() -> list[tuple[str, str]]:
    """All forms, mixed."""
    return shuffled(itertools.product(TREES, JUNK))


def strike_tree(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    form, junk = trees()[number]
    root, truth = fresh(folder, "disguised") / "data", _truth(folder)
    for path in truth:
        to = TREES[form](root, path)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(scene.photos(folder) / path, to)
    JUNK[junk](root)
    if form == "upper":
        truth = {path: label.upper() for path, label in truth.items()}
    return _judge(root, truth, (form, junk) in FINE, f"{form}, {junk}")


def _judge(source: Path, truth: dict[str, str], must: bool, again: str) -> Outcome:
    try:
        found = cf.read_dataset(source)
    except cf.ClipFewShotError as error:
        return Outcome(not must, "refused", f"{again}: {error}"[:300] if must else "")
    except Exception as error:
        return Outcome(False, f"raw {type(error).__name__}", f"{again}: {error}"[:300])
    labels = dict(_pairs(found))
    wrong = sorted(f"{name} as {label}" for name, label in labels.items() if truth.get(name, label) != label)
    missing = len(truth) - sum(name in labels for name in truth)
    if wrong or set(labels.values()) - set(truth.values()):
        classes = sorted(set(labels.values()) - set(truth.values()))
        return Outcome(False, "other labels", f"{again}: {wrong[:2] or classes[:3]}")
    if missing and not found.warnings and len(found.skipped) < missing:
        return Outcome(False, "fewer without a word", f"{again}: {missing} of {len(truth)} missing")
    return Outcome(True, "read")


def _pairs(found: cf.ImageDataset) -> Iterator[tuple[str, str]]:
    """Class and file name, which the truth has as a path, with the label that was read."""
    names, by_content = found.label_space.names, found.required_labels().tolist()
    for image, label in zip(found.images, by_content, strict=True):
        path = Path(str(image))
        classes = [part.lower() for part in path.parts if part.lower() in scene.NAMES]
        yield f"{classes[-1] if classes else '?'}/{path.name.lower()}", names[label]


ATTACKS = [
    Attack("disguised tables", "the same labels, or refused", len(tables()), 40, scene.photos, strike_table),
    Attack(
        "disguised trees",
        "the same labels, what is left out is listed; or refused",
        len(trees()),
        20,
        scene.photos,
        strike_tree,
    ),
]
