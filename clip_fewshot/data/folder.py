"""A folder per class, below ``train``/``val``/``test`` where they exist; also the walk over any tree of pictures."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.data.image import SUFFIXES
from clip_fewshot.data.listing import PARTITIONS, VALIDATION, VALIDATION_JOINED, Entry, Listing, refuse_any
from clip_fewshot.data.names import escape, sort_key
from clip_fewshot.errors import DataError

SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx", "icon\r")
# Pictures we do not read: listed as unreadable and not passed over like a text file lying about.
FOREIGN_SUFFIXES = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".tga", ".dng", ".cr2", ".nef", ".raw")


@dataclass
class Tree:
    """Everything below a folder. Paths are relative to ``root``, in byte order."""

    root: Path
    pictures: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def warnings(self) -> list[str]:
        """What was passed over, by kind."""
        return [f"passed over {n} {kind}" for kind, n in sorted(self.ignored.items())]


def walk(root: Path) -> Tree:
    """List a tree. Links to files inside it count; links to folders inside it are read once, as the folder itself.

    Raises:
        DataError: a folder that cannot be listed, or a link that leaves the tree.
    """
    tree, waiting = Tree(root), [Path()]
    inside = os.path.realpath(root) + os.sep
    while waiting:
        folder = waiting.pop()
        for item in _listed(root / folder):
            path = folder / item.name
            if item.name.startswith(".") or item.name.lower() in SYSTEM_FILES:
                tree.ignored["hidden or system files"] += 1
                continue
            if item.is_symlink() and not (os.path.realpath(item.path) + os.sep).startswith(inside):
                fix = "copy what it points to, or read that folder itself"
                raise DataError(
                    expected="links that stay inside the folder",
                    got="one that leaves it",
                    fix=fix,
                    where=escape(item.path),
                )
            if not item.is_dir():
                _sort_in(tree, path)
            elif item.is_symlink():
                tree.ignored["links to folders that are read anyway"] += 1
            else:
                tree.folders.append(path)
                waiting.append(path)
    for paths in (tree.pictures, tree.texts, tree.folders):
        paths.sort(key=sort_key)
    return tree


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return list(items)
    except OSError as error:
        raise DataError(
            expected="a folder that can be listed",
            got=str(error),
            fix="check the path and permissions",
            where=escape(folder),
        ) from error


def _sort_in(tree: Tree, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or suffix in FOREIGN_SUFFIXES:
        tree.pictures.append(path)
    elif suffix == ".txt":
        tree.texts.append(path)
    else:
        tree.ignored[f"{escape(suffix)} files" if suffix else "files without extension"] += 1


def read_folder(source: Path) -> Listing:
    """Class = name of the folder a picture lies in, at whatever depth below it. No class folders: no labels."""
    tree = walk(source)
    if not tree.pictures:
        raise DataError(expected="a folder with pictures", got="none in it", fix="check the path", where=escape(source))
    if all(len(path.parts) == 1 for path in tree.pictures):
        unlabelled = tuple(Entry(source / path, str(path)) for path in tree.pictures)
        return Listing(source, unlabelled, warnings=tuple(tree.warnings()))
    sides = _partition_folders(tree)
    classes = {_class_of(folder / "any picture", sides) for folder in tree.folders} - {None}
    entries = [
        Entry(source / path, str(path), label, partition=PARTITIONS[path.parts[0].lower()] if sides else "")
        for path in tree.pictures
        if (label := _class_of(path, sides)) is not None
    ]
    names = sorted((name for name in classes if name is not None), key=sort_key)
    _refuse_empty(names, entries, source)
    warnings = [*tree.warnings(), *_homeless(tree, sides)]
    if any(side.lower() in VALIDATION for side in sides):
        warnings.append(VALIDATION_JOINED)
    return Listing(source, tuple(entries), tuple(names), tuple(warnings))


def _class_of(path: Path, sides: set[str]) -> str | None:
    """The class folder of a picture; None for one that lies in none, or beside train and test."""
    if sides and path.parts[0] not in sides:
        return None
    depth = 1 if sides else 0
    return path.parts[depth] if len(path.parts) > depth + 1 else None


def _partition_folders(tree: Tree) -> set[str]:
    """``train`` and its fellows among the top folders; empty where ``train`` is a class, with pictures right in it."""
    with_pictures = {path.parts[0] for path in tree.pictures if len(path.parts) == 2}
    with_folders = {path.parts[0] for path in tree.folders if len(path.parts) == 2}
    sides = {name for name in with_folders if name.lower() in PARTITIONS}
    training = {name for name in sides if PARTITIONS[name.lower()] == "train"}
    return sides if training - with_pictures else set()


def _refuse_empty(classes: list[str], entries: list[Entry], source: Path) -> None:
    filled = {entry.label for entry in entries}
    empty = [escape(name) for name in classes if name not in filled]
    refuse_any(empty, "a picture in every class folder", "fill or remove these folders", source)


def _homeless(tree: Tree, sides: set[str]) -> list[str]:
    paths = [path for path in tree.pictures if _class_of(path, sides) is None]
    return [f"{len(paths)} pictures lie in no class folder and were not read: {escape(paths[0])} ..."] if paths else []
