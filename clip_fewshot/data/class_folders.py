"""A tree of pictures as a listing: a folder per class, below train and test where they exist, or no classes at all."""

from __future__ import annotations

from pathlib import Path

from clip_fewshot.data.folder import Tree, walk
from clip_fewshot.data.folder_names import read_folder_names
from clip_fewshot.data.listing import Entry, Listing, refuse_any
from clip_fewshot.data.names import escape, number, sort_key
from clip_fewshot.data.tree_form import TreeForm, Way, find_form, find_parts, form_at
from clip_fewshot.errors import DataError

# Of files that say something about pictures in other folders.
ANNOTATIONS = (".txt", ".xml", ".json", ".csv", ".tsv", ".yaml", ".yml")


def read_folder(source: Path, classes_at: int | None = None) -> Listing:
    """Class = name of the folder a picture lies in, at the one depth where the folders can be classes.

    Folders above all classes (an archive's own name), train and test, and first letters as in Places are passed over.
    A text at the top with a line per class folder names the classes. No class folders: no labels.

    Args:
        classes_at: depth of the class folders, from 1, where the tree does not show it.

    Raises:
        DataError: the folders can be read in two ways; a class folder without pictures.
    """
    tree, ways = _walk(source)
    return _labelled(tree, form_at(ways, classes_at, source) if classes_at is not None else find_form(ways, source))


def read_leaves(source: Path) -> Listing:
    """Class = the innermost folder, as ``Greek/character01``; the same name in two folders is two classes."""
    tree, ways = _walk(source)
    return _labelled(tree, find_form(ways, source, innermost=True))


def read_unlabelled(source: Path) -> Listing:
    """Every picture, without a class; on a side where the folders are train and test."""
    tree, ways = _walk(source)
    form = find_parts(ways, source)
    folders = {label for way in ways if (label := form.label(way)) is not None}
    alone = [f"one folder of pictures names no classes: {escape(one)}" for one in folders] if len(folders) == 1 else []
    if form.sides and not folders:
        alone = [f"{', '.join(map(escape, form.sides))} hold pictures and no class folders"]
    entries = [
        Entry(source / path, str(path), partition=form.side(way)) for path, way in zip(tree.pictures, ways, strict=True)
    ]
    return Listing(source, tuple(entries), warnings=(*tree.warnings(tree.texts), *form.notes, *alone, *form.joined()))


def find_labels(tree: Tree) -> dict[Path, str]:
    """Picture -> its class by its folders, of those that have one.

    Raises:
        DataError: as of :func:`read_folder`.
    """
    form = find_form(_ways(tree), tree.root)
    _refuse_empty(tree, form)
    labels = {path: form.label(path.parts[:-1]) for path in tree.pictures}
    return {path: label for path, label in labels.items() if label is not None}


def _ways(tree: Tree) -> list[Way]:
    """The folders that each picture lies in."""
    return [path.parts[:-1] for path in tree.pictures]


def _walk(source: Path) -> tuple[Tree, list[Way]]:
    tree = walk(source)
    if not tree.pictures:
        got = "; ".join(["none in it", *tree.warnings(tree.texts)])
        raise DataError(expected="a folder with pictures", got=got, fix="check the path", where=escape(source))
    return tree, _ways(tree)


def _labelled(tree: Tree, form: TreeForm) -> Listing:
    labels = {path: form.label(way) for path, way in zip(tree.pictures, _ways(tree), strict=True)}
    names = sorted({label for label in labels.values() if label is not None}, key=sort_key)
    if not names:
        return read_unlabelled(tree.root)
    _refuse_empty(tree, form)
    names_of, named = read_folder_names([tree.root / path for path in tree.texts if len(path.parts) == 1], names)
    entries = [
        Entry(tree.root / path, str(path), names_of.get(label, label), partition=form.side(path.parts))
        for path, label in labels.items()
        if label is not None
    ]
    texts = [path for path in tree.texts if not names_of or not named[0].endswith(f" {escape(path)}")]
    unread = [path for path, label in labels.items() if label is None]
    left = f"not read: {number(len(unread), 'picture')} in no class folder"
    homeless = [f"{left}: {escape(unread[0])} ..."] if unread else []
    warnings = (*tree.warnings(texts), *form.notes, *named, *homeless, *form.joined())
    return Listing(tree.root, tuple(entries), tuple(names_of.get(name, name) for name in names), warnings)


def _refuse_empty(tree: Tree, form: TreeForm) -> None:
    """Class folders without pictures; one that holds texts, tables or outlines is none."""
    if form.classes.stop is None:
        return
    said = {
        path.parts[: form.classes.stop] for path in (*tree.texts, *tree.others) if path.suffix.lower() in ANNOTATIONS
    }
    held = {path.parts[: form.classes.stop] for path in tree.pictures}
    folders = {path.parts for path in tree.folders if len(path.parts) == form.classes.stop} - held - said
    filled = {form.label(way) for way in _ways(tree)}
    empty = {escape(label) for folder in folders if (label := form.label(folder)) is not None and label not in filled}
    refuse_any(sorted(empty), "a picture in every class folder", "fill or remove these folders", tree.root)
