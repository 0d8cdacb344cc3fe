"""Where results go. What this library did not write is not replaced, and that is decided before any work is done.

A folder of ours has a mark in it, and so has a page or a drawing at its end. We rejected a list of names that may be
replaced: a `results.json` may as well be a user's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.config import BUILTIN_DATA
from clip_fewshot.errors import ResourceError
from clip_fewshot.runtime.files import FILE_LOCK, write_json, write_text
from clip_fewshot.runtime.reading import decode_json, read_whole

FOLDER_MARK, FILE_MARK = ".clip_fewshot.json", "<!-- written by clip_fewshot -->\n"
INSIST = ", or insist with `overwrite`"
LONGEST_RECORD = 1 << 24  # bytes of a JSON file that a folder is known by
# Options that say what to read.
PICTURE_SOURCES = {"data", "sets", "sources", "pictures", "test", "unlabelled", "labelled", "novel", "background"}
SOURCES = PICTURE_SOURCES | {
    *("image", "features", "tuned", "saved", "exported", "store", "review", "results", "class_names", "words"),
    *("from_", "templates"),
}


@dataclass(frozen=True)
class FolderKind:
    """What a folder of ours holds.

    Attributes:
        name: in words, such as "few-shot run"; it stands in the mark.
        signs: files by which one without a mark is known, and keys of the JSON object in each: those of earlier
            releases, and of what is moved about.
    """

    name: str
    signs: tuple[tuple[str, frozenset[str]], ...] = ()

    def owns(self, folder: Path) -> bool:
        """Whether ``folder`` holds such a thing."""
        if read_object(folder / FOLDER_MARK).get("kind") == self.name:
            return True
        return any(keys <= read_object(folder / name).keys() for name, keys in self.signs)


COMPARISON_FOLDER, DETECTORS_FOLDER, GAP_FOLDER, SHOTS_FOLDER = map(
    FolderKind, ("comparison of methods", "comparison of detectors", "measured modality gap", "study of shots")
)


def check_folder(
    folder: Path,
    kind: FolderKind,
    overwrite: bool | None = False,
    options: Any = None,
    is_leftover: Callable[[Path], bool] = lambda path: False,
) -> Path:
    """``folder``, if results may be written into it: new, empty, of that kind, or insisted on.

    Args:
        overwrite: take one that holds other files; those of our names are then replaced, the others stay. None: False,
            and the error does not offer it.
        options: a dataclass with what is read, see :func:`check_apart`.
        is_leftover: says which files inside do not count, besides what a kill leaves.

    Raises:
        ResourceError: anything else is there, it is read as well, or it cannot be written to. Nothing has been written.
    """
    there = _is_there(folder)
    check_apart(folder, options, inside=not kind.owns(folder))
    if not there:
        return folder
    linked = folder.is_symlink()
    if not folder.is_dir():
        raise _refusal(folder, "a new or empty folder", "a link that leads to none" if linked else "a file", "")
    if overwrite or kind.owns(folder):
        return folder
    with _reported(folder):
        foreign = sorted(path.name for path in folder.iterdir() if not (_left_by_kill(path) or is_leftover(path)))
    if linked or foreign:
        more = f" and {len(foreign) - 1:,} more" if len(foreign) > 1 else ""
        got = f"one that holds {foreign[0]!r}{more}" if foreign else "a link"
        insist = INSIST if overwrite is not None else ""
        raise _refusal(folder, f"a new or empty folder, or that of a {kind.name}", got, insist)
    return folder


def check_new_folder(folder: Path, options: Any = None) -> Path:
    """``folder``, if nothing is there, or a folder without anything in it; ``options`` and errors as above."""
    there = _is_there(folder)
    check_apart(folder, options, inside=True)
    with _reported(folder):
        used = there and (not folder.is_dir() or folder.is_symlink() or any(folder.iterdir()))
    if used:
        raise _refusal(folder, "a new or empty folder", "one that is in use", "")
    return folder


def mark_folder(folder: Path, kind: FolderKind) -> None:
    """Write into ``folder`` that it is ours, before anything else of ours."""
    if read_object(folder / FOLDER_MARK).get("kind") != kind.name:
        write_json(folder / FOLDER_MARK, {"kind": kind.name, "written_by": "clip_fewshot"})


def check_file(
    path: Path, overwrite: bool = False, options: Any = None, is_own: Callable[[Path], bool] | None = None
) -> Path:
    """``path``, if a file may be written there: where nothing is, or a file of ours, or insisted on.

    Args:
        overwrite: replace any file.
        options: as of :func:`check_folder`.
        is_own: whether a file is ours; by default whether :func:`write_marked` has written it.

    Raises:
        ResourceError: as of :func:`check_folder`; a folder or a device is never replaced.
    """
    there = _is_there(path)
    check_apart(path, options, inside=is_own is None)  # a drawing would be an unreadable picture
    if not there:
        return path
    linked, regular = path.is_symlink(), path.is_file()
    if not regular and not linked:
        raise _refusal(path, "a place for a file", "a folder" if path.is_dir() else "a device", "")
    if not overwrite and (linked or not (is_own or _is_marked)(path)):
        raise _refusal(path, "a new file, or one of ours to replace", "a link" if linked else "another file")
    return path


def write_marked(path: Path, text: str) -> None:
    """Write a page or a drawing, with the mark that lets :func:`check_file` replace it."""
    write_text(path, f"{text.rstrip()}\n{FILE_MARK}")


def check_apart(target: Path, options: Any, inside: bool = False) -> None:
    """Refuse a target that is also read; ``inside``: one among the pictures too, where it would be read next time.

    Args:
        options: dataclass of a command, whose ``SOURCES`` are read; None: nothing is.
    """
    place = Path(os.path.realpath(target))
    for name, source in _list_sources(options):
        if _same(source, target):
            raise _refusal(target, "a place apart from what is read", f"that of `{name}`", "")
        if inside and name in PICTURE_SOURCES and source.is_dir() and Path(os.path.realpath(source)) in place.parents:
            raise _refusal(target, "a place outside of the pictures", f"one inside of `{name}`", "")


def shorten_home(value: Any) -> Any:
    """``value``, text or JSON, with ``~`` for the folder of the user, whose name is private."""
    home = os.path.expanduser("~")
    if isinstance(value, str):
        return value if home in ("~", os.sep, "") else value.replace(home + os.sep, "~" + os.sep)
    if isinstance(value, dict):
        return {shorten_home(key): shorten_home(item) for key, item in value.items()}
    return [*map(shorten_home, value)] if isinstance(value, list | tuple) else value


def write_results(path: Path, results: Any) -> None:
    """Write JSON that is made to be passed on."""
    write_json(path, shorten_home(results))


def _list_sources(options: Any) -> Iterator[tuple[str, Path]]:
    """Name of the option and path, of all that a command is to read and that is there."""
    for field in fields(options) if is_dataclass(options) else ():
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from _list_sources(value)
        elif field.name in SOURCES:
            named = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, str | Path)]
            yield from ((field.name, Path(one)) for one in named if one not in ("", *BUILTIN_DATA) and _exists(one))


def _exists(place: str | Path) -> bool:
    try:
        return os.path.exists(place)
    except (OSError, ValueError):
        return False


def _same(source: Path, target: Path) -> bool:
    return _exists(target) and os.path.samefile(source, target)


def _is_there(path: Path) -> bool:
    """Whether anything is, a broken link too; where nothing is, it must be possible to make it."""
    with _reported(path):
        try:
            os.lstat(path)
            return True
        except FileNotFoundError:
            pass
        parent = next(parent for parent in Path(os.path.abspath(path)).parents if _exists(parent))
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(f"{parent} cannot be written to")
    return False


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """What the operating system refuses is an error of ours."""
    try:
        yield
    except (OSError, ValueError) as error:  # the latter of a name with a NUL
        got = getattr(error, "strerror", None) or str(error)
        raise _refusal(path, "a place to write to", got, "") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object in a plain file; empty where there is none."""
    try:
        found = decode_json(read_whole(path, LONGEST_RECORD))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _left_by_kill(path: Path) -> bool:
    """Whether a command that was ended left it before it had written anything: half a file, or its lock."""
    if path.name == FILE_LOCK and path.is_file():
        with path.open("rb") as file:
            return file.read(4) in (b"", b"pid ")
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _is_marked(path: Path) -> bool:
    with _reported(path), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(FILE_MARK)))
        return file.read() == FILE_MARK.encode()


def _refusal(path: Path, expected: str, got: str, insist: str = INSIST) -> ResourceError:
    return ResourceError(expected=expected, got=got, fix=f"choose another place{insist}", where=str(path))
