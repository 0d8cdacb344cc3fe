"""The folder that the paths of a list or table start from: the one where all of its files exist."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath

from clip_fewshot.data.names import SUFFIXES, escape, list_first, sort_key
from clip_fewshot.errors import DataError

PROBED_PATHS = 50  # paths looked for in every folder; in those that have them all, the others too
MOST_FOLDERS = 500  # looked at in one step of the search
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "jpgs", "jpg")  # no class is called so
# Folders beside that of a list, as in meta/train.txt and images/; any other may be another set.
CONTAINERS = (*IMAGE_FOLDERS, "pictures", "photos")


class BaseFolder:
    """A folder, and what paths mean that start from it.

    A path is the file of that name; else the one that it names with slashes for backslashes; else the picture whose
    extension has other capitals; else, of an id without extension, the one picture of that stem.

    Args:
        dropped: folders at the beginning of each path that are not here.
    """

    def __init__(self, folder: Path, dropped: int = 0) -> None:
        self.folder, self.dropped = folder, dropped
        self._stems: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str | None:
        """The file, or None where there is none, or two pictures of that stem."""
        found = self.spellings(path)
        return found[0] if len(found) == 1 else None

    def spellings(self, path: str) -> list[str]:
        """The files that ``path`` may mean."""
        ways = dict.fromkeys((path, path.replace("\\", "/"), path.lstrip("/\\")))  # Places: /a/airfield/0.jpg
        if self.dropped:
            ways = {"/".join(_parts(path)[self.dropped :]): None}
        for way in ways:
            if way and _exists(place := os.path.join(self.folder, way)):
                return [os.path.normpath(place)]
        for way in ways:
            folder, stem = os.path.split(os.path.join(self.folder, way))
            there = self._pictures(folder)
            same = [name for name in there.get(os.path.splitext(stem)[0], ()) if name.casefold() == stem.casefold()]
            if stem and (names := same or there.get(stem)):
                return [os.path.normpath(os.path.join(folder, name)) for name in names]
        return []

    def _pictures(self, folder: str) -> dict[str, list[str]]:
        """Stem -> picture files right in ``folder``."""
        if folder not in self._stems:
            found: dict[str, list[str]] = defaultdict(list)
            try:
                names = sorted(os.listdir(folder))
            except (OSError, ValueError):  # no folder, one that cannot be listed, or a NUL in its name
                names = []
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    found[stem].append(name)
            self._stems[folder] = found
        return self._stems[folder]


def find_base(source: Path, paths: Sequence[str], root: Path | None = None) -> tuple[BaseFolder, list[str]]:
    """The folder that ``paths`` start from, and a note where it does not lie in that of ``source``.

    Looked at are, one step after the other until files are found: the folder of ``source``, its parents and the
    current folder; the folders in it; those in these, and a folder ``images`` beside it. A folder with some of the
    files ends the search, so that a row with a mistake never moves a list to another set of pictures.

    Args:
        root: taken as it is.

    Raises:
        DataError: two folders have all the files and neither is that of ``source``, or ``root`` is none. Where none has
            them all, the one with most is returned, and the caller names what is missing.
    """
    if root is not None:
        if not os.path.isdir(root):
            raise DataError(expected="a folder", got="none", fix="check `root`", where=escape(root))
        return BaseFolder(root), []
    relative = [path for path in paths if path.strip() and "://" not in path and not is_there(path)]
    for folders in _steps(source.parent) if relative else ():
        bases = [BaseFolder(folder) for folder in folders]
        counts = [sum(base.find(path) is not None for path in relative[:PROBED_PATHS]) for base in bases]
        full = [base for base, n in zip(bases, counts, strict=True) if n == len(relative[:PROBED_PATHS])]
        whole = _distinct([base for base in full if all(base.find(path) for path in relative)], relative)
        if whole:
            _refuse_two(whole if whole[0].folder != source.parent else [], source)  # a list's own folder comes first
            found, own = (os.path.join(os.path.realpath(f), "") for f in (whole[0].folder, source.parent))
            note = f"the paths in {escape(source.name)} start from {escape(whole[0].folder)}"
            return whole[0], [] if found.startswith(own) else [note]
        if any(counts):
            return bases[counts.index(max(counts))], []
    return _find_moved(source, relative) or (BaseFolder(source.parent), [])


def _find_moved(source: Path, paths: Sequence[str]) -> tuple[BaseFolder, list[str]] | None:
    """Where absolute paths of another machine lie here: all files are found behind as few dropped folders as can be."""
    if not paths or not all(path[:1] == "/" or re.match(r"[A-Za-z]:[\\/]", path) for path in paths):
        return None
    levels = zip(*(_parts(path)[:-1] for path in paths), strict=False)
    shared = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)]
    folders = [folder for step in islice(_steps(source.parent), 2) for folder in step]
    for dropped in range(1, len(shared) + 1):
        bases = [BaseFolder(folder, dropped) for folder in folders]
        whole = _distinct([base for base in bases if all(base.find(path) for path in paths)], paths)
        if whole:
            _refuse_two(whole, source)
            gone = escape("/".join(shared[:dropped]).replace("//", "/"))
            return whole[0], [f"paths below {gone}, which is not here, are read below {escape(whole[0].folder)}"]
    return None


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path.replace("\\", "/")).parts


def count_files(source: Path, paths: Sequence[str], root: Path | None) -> int:
    """How many of ``paths``, written in ``source``, name a file."""
    base, _ = find_base(source, paths, root)
    return sum(base.find(path) is not None for path in paths)


def is_there(path: str) -> bool:
    """Whether it is an absolute path of something."""
    return os.path.isabs(path) and _exists(path)


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:  # a NUL or a lone surrogate
        return False


def _steps(own: Path) -> Iterator[list[Path]]:
    """The folders to look at, the likeliest first; those of a step have equal rights."""
    here = own.absolute()
    yield [own, *here.parents, Path.cwd()]
    inner = _inner([own])
    yield inner
    beside = [folder for folder in _inner([here.parent]) if folder.name.casefold() in CONTAINERS]
    yield [*_inner(inner), *beside, *_inner(beside)][:MOST_FOLDERS]


def _inner(folders: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        try:
            with os.scandir(folder) as items:
                found += sorted((folder / i.name for i in items if i.is_dir() and i.name[0] != "."), key=sort_key)
        except OSError:
            continue  # a folder that may be entered but not listed: its own files can still be reached
        if len(found) > MOST_FOLDERS:
            break
    return found[:MOST_FOLDERS]


def _distinct(bases: list[BaseFolder], paths: Sequence[str]) -> list[BaseFolder]:
    """One base of those under which ``paths`` are the same files."""
    by_files: dict[tuple[str, ...], BaseFolder] = {}
    for base in bases:
        by_files.setdefault(tuple(os.path.realpath(base.find(path) or "") for path in paths[:PROBED_PATHS]), base)
    return list(by_files.values())


def _refuse_two(bases: list[BaseFolder], source: Path) -> None:
    if len(bases) > 1:
        got = f"{len(bases)} that have all files:{list_first(escape(base.folder) for base in bases)}\n"
        fix = "name the one that is meant (`root`)"
        raise DataError(expected="one folder that the paths start from", got=got, fix=fix, where=escape(source))
