"""The walk over a tree of pictures: what is one, what is a text, and what is passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.data.names import READERS, SUFFIXES, SYSTEM_NAMES, escape, sort_key
from clip_fewshot.errors import DataError

MOST_KINDS = 8  # of what is passed over that are named


@dataclass
class Tree:
    """Everything below a folder. Paths are relative to ``root``, in byte order."""

    root: Path
    pictures: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def warnings(self, texts: Iterable[Path] = ()) -> list[str]:
        """What was passed over, by kind; of the texts those that are named."""
        return list_passed(self.passed(texts))

    def passed(self, texts: Iterable[Path] = ()) -> Counter[str]:
        """The same as counts."""
        return self.ignored + Counter(map(kind_of, (*self.others, *texts)))


def list_passed(kinds: Counter[str]) -> list[str]:
    """A sentence on each of the commonest kinds of what was passed over, and one on the others."""
    kinds = +kinds  # those above 0
    rare = sum(n for _, n in kinds.most_common()[MOST_KINDS:])
    named = sorted(kinds.most_common(MOST_KINDS)) + ([("files of other kinds", rare)] if rare else [])
    return [f"passed over {kind}: {n:,}" for kind, n in named]


def kind_of(path: Path) -> str:
    """What a file that was passed over is called in a count of them."""
    return f"{escape(path.suffix.lower())} files" if path.suffix else "files without extension"


def count_beside(root: Path, suffix: str) -> Counter[str]:
    """What lies in a folder beside files of one suffix, by kind; nothing where ``root`` is a file itself."""
    if not os.path.isdir(root):
        return Counter()
    tree = walk(root)
    tree.others = [path for path in tree.others if path.suffix.lower() != suffix]
    return tree.passed((*tree.texts, *tree.pictures))


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
                got = "one that leaves it"
                raise DataError(expected="links that stay inside the folder", got=got, fix=fix, where=escape(item.path))
            if not item.is_dir():
                _sort_in(tree, path)
            elif item.is_symlink():
                tree.ignored["links to folders that are read anyway"] += 1
            else:
                tree.folders.append(path)
                waiting.append(path)
    for paths in (tree.pictures, tree.texts, tree.folders, tree.others):
        paths.sort(key=sort_key)
    return tree


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return list(items)
    except OSError as error:
        got, fix = str(error), "check the path and permissions"
        raise DataError(expected="a folder that can be listed", got=got, fix=fix, where=escape(folder)) from error


def _sort_in(tree: Tree, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or suffix in READERS:
        tree.pictures.append(path)
    elif suffix == ".txt":
        tree.texts.append(path)
    else:
        tree.others.append(path)
