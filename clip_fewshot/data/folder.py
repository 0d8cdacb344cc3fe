"""A folder per class, below ``train``/``val``/``test`` where they exist; also the walk over any tree of pictures."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.data.folder_names import read_folder_names
from clip_fewshot.data.listing import PARTITIONS, VALIDATION, VALIDATION_JOINED, Entry, Listing, refuse_any
from clip_fewshot.data.names import READERS, SUFFIXES, SYSTEM_NAMES, escape, sort_key
from clip_fewshot.errors import DataError

# Which folders on the way to a picture are its class.
OUTER, BELOW, INNERMOST = slice(0, 1), slice(1, None), slice(0, None)


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
            if item.name.startswith(".") or item.name.lower() in SYSTEM_NAMES:
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
    if suffix in SUFFIXES or suffix in READERS:
        tree.pictures.append(path)
    elif suffix == ".txt":
        tree.texts.append(path)
    else:
        tree.ignored[f"{escape(suffix)} files" if suffix else "files without extension"] += 1


def read_folder(source: Path) -> Listing:
    """Class = name of the folder a picture lies in, at whatever depth below it. No class folders: no labels.

    Folders of first letters, as in Places, are passed over. A text at the top with a line per class folder names the
    classes.
    """
    return _read_classes(source, leaves=False)


def read_leaves(source: Path) -> Listing:
    """Class = the innermost folder, as ``Greek/character01``; the same name in two folders is two classes."""
    return _read_classes(source, leaves=True)


def _read_classes(source: Path, leaves: bool) -> Listing:
    tree = walk(source)
    if not tree.pictures:
        raise DataError(expected="a folder with pictures", got="none in it", fix="check the path", where=escape(source))
    if all(len(path.parts) == 1 for path in tree.pictures):
        unlabelled = tuple(Entry(source / path, str(path)) for path in tree.pictures)
        return Listing(source, unlabelled, warnings=tuple(tree.warnings()))
    sides = _partition_folders(tree)
    depth, nested = _class_depth(tree, sides, leaves)
    entries = [
        Entry(source / path, str(path), label, partition=PARTITIONS[path.parts[0].lower()] if sides else "")
        for path in tree.pictures
        if (label := _class_of(path, sides, depth)) is not None
    ]
    classes = {_class_of(folder / "any picture", sides, depth) for folder in tree.folders} - {None}
    found = {entry.label for entry in entries} if depth != OUTER else classes
    names = sorted((name for name in found if name is not None), key=sort_key)
    _refuse_empty(names, entries, source)
    names_of, named = read_folder_names([source / path for path in tree.texts if len(path.parts) == 1], names)
    entries = [entry._replace(label=names_of.get(str(entry.label), entry.label)) for entry in entries]
    names = [names_of.get(name, name) for name in names]
    warnings = [*tree.warnings(), *nested, *named, *_homeless(tree, sides)]
    if any(side.lower() in VALIDATION for side in sides):
        warnings.append(VALIDATION_JOINED)
    return Listing(source, tuple(entries), tuple(names), tuple(warnings))


def _class_of(path: Path, sides: set[str], depth: slice = OUTER) -> str | None:
    """The class of a picture, ``depth`` of its folders; None for one that lies in none, or beside train and test."""
    return "/".join(_folders_of(path, sides)[depth]) or None


def _class_depth(tree: Tree, sides: set[str], leaves: bool) -> tuple[slice, list[str]]:
    """Which folders on the way to a picture are its class, and what is said of it.

    Where every picture lies two folders deep or more, names alone do not say whether the outer or the inner folder is
    the class: ``cat/monday`` or ``Greek/alpha``. The outer one stays the class, and the other reading is named.
    """
    ways = [way for path in tree.pictures if (way := _folders_of(path, sides))]
    inner = {way for way in ways if len(way) > 1}
    if leaves:
        return INNERMOST, []
    if not inner or len(inner) < len(set(ways)):
        return OUTER, []
    if all(len(way[0]) == 1 and way[1][:1].casefold() == way[0].casefold() for way in inner):
        return BELOW, ["the outer folders are first letters: the folders in them are the classes"]
    outer = len({way[0] for way in inner})
    note = f"every picture lies two folders deep: the {outer} outer folders are the classes"
    return OUTER, [f"{note}, and with the format leaves the {len(inner)} inner ones"] if len(inner) > outer else []


def _folders_of(path: Path, sides: set[str]) -> tuple[str, ...]:
    """The folders that a picture lies in, below train and test; none beside these."""
    if sides and path.parts[0] not in sides:
        return ()
    return path.parts[1:-1] if sides else path.parts[:-1]


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
