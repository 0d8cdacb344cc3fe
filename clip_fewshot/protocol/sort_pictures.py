"""Copies of pictures in a folder per answer, and how they are taken back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clip_fewshot.data.names import NO_CLASS
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.files import append_line, copy_file
from clip_fewshot.runtime.outputs import FOLDER_MARK, FolderKind, mark_folder
from clip_fewshot.runtime.progress import report_steps
from clip_fewshot.runtime.reading import decode_json, open_regular, read_whole

if TYPE_CHECKING:
    from clip_fewshot.data.dataset import ImageDataset
    from clip_fewshot.open_world.answers import Answer

SORTED_FOLDER, LIST_OF_COPIES = FolderKind("sorted pictures"), ".copies.jsonl"
UNFIT = re.compile(r'[/\\:*?"<>|\x00-\x1f]')  # for the name of a folder on some system
LONGEST_LABEL = 60  # characters of a folder's name: in any script fewer bytes than the 255 that systems take


def list_files(pictures: ImageDataset) -> list[Path]:
    """The file of each picture.

    Raises:
        UsageError: some are in none.
    """
    files = [image for image in pictures.images if isinstance(image, Path)]
    if len(files) < len(pictures):
        fix = "save them as files"
        raise UsageError(expected="pictures in files", got="pictures in memory", fix=fix, where=pictures.name)
    return files


class PictureSorter:
    """Copies each of ``files``, or links to it, into a folder of ``folder`` that is called like its answer.

    The pictures stay where they are, and ``folder`` keeps a list of its copies for :func:`remove_copies`. Where two are
    called the same, a number stands behind the later one.
    """

    def __init__(self, folder: Path, files: Sequence[Path], links: bool = False) -> None:
        self._folder, self._left, self._links = folder, iter(files), links
        self._taken: dict[str, int] = {}
        self._homes: dict[str | None, Path] = {None: _new_place(self._taken, folder / NO_CLASS)}

    def add(self, answers: Sequence[Answer]) -> None:
        """Sort the next ones, a picture an answer.

        Raises:
            ResourceError: a copy cannot be written.
        """
        mark_folder(self._folder, SORTED_FOLDER)
        pairs = [
            (file, self._find_place(file, answer.label)) for answer, file in zip(answers, self._left, strict=False)
        ]
        lines = [{"copy": str(copy.relative_to(self._folder)), "of": os.path.realpath(file)} for file, copy in pairs]
        append_line(
            self._folder / LIST_OF_COPIES, "\n".join(map(json.dumps, lines))
        )  # first: a kill leaves no copy unlisted
        for file, copy in report_steps(pairs, "sort", len(pairs)):
            copy_file(file, copy, self._links)

    def _find_place(self, file: Path, label: str | None) -> Path:
        if label is not None and label not in self._homes:
            fitting = UNFIT.sub("_", label)[:LONGEST_LABEL].strip(". ") or "_"
            self._homes[label] = _new_place(self._taken, self._folder / fitting)
        return _new_place(self._taken, self._homes[label] / file.name)


def _new_place(taken: dict[str, int], place: Path) -> Path:
    """``place``, or the first of ``place`` (2), (3) and so on that is not taken, in the eyes of any system.

    It is taken then. ``taken`` knows the last number behind each: to count from 2 took 48 s for 2,000 of one name.
    """
    wanted, key = place, str(place).casefold()
    while str(place).casefold() in taken:
        taken[key] += 1
        place = wanted.with_name(f"{wanted.stem} ({taken[key]}){wanted.suffix}")
    taken[str(place).casefold()] = 1
    return place


def remove_copies(folder: Path) -> tuple[int, list[Path]]:
    """Remove the copies of ``folder`` that are as they were made, and their folders where these are empty then.

    A copy that was changed or moved, or whose original is no longer there or another, stays: no picture is lost. So
    does what the system does not let us read or remove.

    Returns:
        How many were removed, and the files that stay, sorted.

    Raises:
        UsageError: ``folder`` was not made by --sort-into.
    """
    if not SORTED_FOLDER.owns(folder):
        expected, fix = "a folder that --sort-into has made", "name that one"
        raise UsageError(expected=expected, got="another", fix=fix, where=str(folder))
    removed, homes, copies = 0, set[Path](), _read_copies(folder / LIST_OF_COPIES)
    for line in report_steps(copies, "take back", len(copies)):
        copy = folder / line["copy"]
        with suppress(OSError):
            if not _is_inside(copy, folder):
                continue
            homes.add(copy.parent)
            if _is_as_made(copy, Path(line["of"])):
                copy.unlink()
                removed += 1
    for home in homes:
        _remove_if_empty(home)
    left = sorted(
        path for path in folder.rglob("*") if path.name not in (LIST_OF_COPIES, FOLDER_MARK) and not path.is_dir()
    )
    if not left:
        for name in (LIST_OF_COPIES, FOLDER_MARK):
            (folder / name).unlink(missing_ok=True)
        _remove_if_empty(folder)
    return removed, left


def _read_copies(path: Path) -> list[dict[str, str]]:
    """The lines of the list that are whole."""
    found = []
    for line in read_whole(path).splitlines() if path.is_file() else []:
        with suppress(ValueError):
            entry = decode_json(line)
            if isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in ("copy", "of")):
                found.append(entry)
    return found


def _is_inside(copy: Path, folder: Path) -> bool:
    """Whether it lies in a folder of ``folder``, as copies do: the list may say anything."""
    return copy.parent.parent == folder and copy.parent.name != ".." and not copy.parent.is_symlink()


def _is_as_made(copy: Path, original: Path) -> bool:
    """Whether the original has all that is in the copy, which a kill may have cut short."""
    if copy.is_symlink():
        return os.readlink(copy) == str(original)
    if not (copy.is_file() and original.is_file()) or os.path.samefile(copy, original):
        return False
    with open_regular(copy) as one, open_regular(original) as other:
        while piece := one.read(1 << 20):
            if piece != other.read(len(piece)):
                return False
    return True


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
