"""Answers for pictures, block by block; as rows of a file, and as a folder per answer with its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from clip_fewshot.conformal.shift import Shift, find_shift
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import NO_CLASS
from clip_fewshot.data.parquet import PARQUET, import_pyarrow
from clip_fewshot.errors import UsageError
from clip_fewshot.open_world.answers import Answer
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.report.answer_tables import answer_rows
from clip_fewshot.report.tables import format_csv
from clip_fewshot.runtime.files import append_line, copy_file, make_folder, rename_file, replace_file
from clip_fewshot.runtime.outputs import check_file
from clip_fewshot.runtime.progress import report_steps

Row = Mapping[str, Any]
AddRows = Callable[[Sequence[Row]], None]
OPENINGS = {".csv": b"image,answer,", ".jsonl": b'{"image": '}  # how a file of ours begins
ANSWER_BLOCK = 256  # pictures looked at before their rows are written; a multiple of a batch, so that no number changes
UNFIT = re.compile(r'[/\\:*?"<>|\x00-\x1f]')  # for the name of a folder on some system


def answer_pictures(
    world: OpenWorldClassifier, pictures: ImageDataset, top: int, together: bool, add: AddRows = lambda rows: None
) -> tuple[list[Answer], Shift]:
    """What ``world.predict`` answers and ``world.find_shift`` finds; nothing is remembered.

    Args:
        add: takes the rows of a file, see :func:`answer_rows`, of each block of pictures once it is looked at.
    """
    world.calibrate_quickly()
    size = len(pictures) if together else ANSWER_BLOCK
    answers, seen = list[Answer](), []
    for start in report_steps(range(0, len(pictures), size), "answer", len(pictures), size):
        block = pictures.subset(np.arange(start, min(start + size, len(pictures))))
        sight = world.look(block)
        said = world.judge(sight, top, together)
        add(answer_rows(world, block, said))
        answers += said
        seen.append(sight.frozen)
    return answers, find_shift(*world.reference_, np.concatenate(seen), world.model.seed)


def check_answer_file(path: Path, overwrite: bool, options: Any) -> Path:
    """``path``, if answers may be written there: nothing is, or ``overwrite``; what an interrupted run left is ours."""
    check_file(path, overwrite, options, is_own=lambda there: False)
    if path.suffix == PARQUET:
        import_pyarrow()
    else:
        check_file(_partial(path), overwrite, options, is_own=lambda there: _is_begun(there, OPENINGS[path.suffix]))
    return path


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _is_begun(path: Path, opening: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(opening)) == opening


@contextmanager
def write_answers(path: Path) -> Iterator[AddRows]:
    """A function that adds rows, all of the same columns, to a file: CSV, JSON lines or Parquet by its name.

    It is there once it is whole. Until then, and after a kill, the rows so far stand in PATH.part; not those of
    Parquet, which cannot be read before it ends.
    """
    with (_write_parquet if path.suffix == PARQUET else _write_lines)(path) as add:
        yield add


@contextmanager
def _write_lines(path: Path) -> Iterator[AddRows]:
    partial, is_table, began = _partial(path), path.suffix == ".csv", False
    make_folder(path.parent)
    partial.unlink(missing_ok=True)

    def add(rows: Sequence[Row]) -> None:
        nonlocal began
        append_line(partial, _csv_lines(rows, head=not began) if is_table else _json_lines(rows))
        began = True

    yield add
    rename_file(partial, path.name)


def _csv_lines(rows: Sequence[Row], head: bool) -> str:
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    return format_csv([list(rows[0]), *cells] if head else cells).removesuffix("\n")


def _json_lines(rows: Sequence[Row]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@contextmanager
def _write_parquet(path: Path) -> Iterator[AddRows]:
    arrow, parquet = import_pyarrow()
    with replace_file(path) as file:
        writer = None

        def add(rows: Sequence[Row]) -> None:
            nonlocal writer
            table = arrow.Table.from_pylist([dict(row) for row in rows], schema=_schema(arrow, rows[0]))
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)

        yield add
        if writer is not None:
            writer.close()


def _schema(arrow: Any, row: Row) -> Any:
    """Numbers where a column has them: its values may all be missing."""
    numbers = ("p_value", "score", "doubt", "probability_")
    return arrow.schema([(name, arrow.float64() if name.startswith(numbers) else arrow.string()) for name in row])


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


def sort_pictures(folder: Path, files: Sequence[Path], answers: Sequence[Answer], links: bool = False) -> None:
    """Copy each picture, or link to it, into a folder of ``folder`` that is called like its answer.

    The pictures stay where they are, so that to remove ``folder`` is to undo it. Where two are called the same, a
    number stands behind the later one.

    Raises:
        ResourceError: a copy cannot be written.
    """
    homes: dict[str | None, Path] = {None: folder / NO_CLASS}
    taken: set[str] = set()
    for file, answer in zip(report_steps(files, "sort", len(files)), answers, strict=True):
        if answer.label is not None and answer.label not in homes:
            fitting = UNFIT.sub("_", answer.label).strip(". ") or "_"
            homes[answer.label] = _new_place({str(home).casefold() for home in homes.values()}, folder / fitting)
        target = _new_place(taken, homes[answer.label] / file.name)
        taken.add(str(target).casefold())
        copy_file(file, target, links)


def _new_place(taken: set[str], place: Path) -> Path:
    """``place``, or the first of ``place`` (2), (3) and so on that is not taken, in the eyes of any system."""
    wanted, n = place, 1
    while str(place).casefold() in taken:
        n += 1
        place = wanted.with_name(f"{wanted.stem} ({n}){wanted.suffix}")
    return place
