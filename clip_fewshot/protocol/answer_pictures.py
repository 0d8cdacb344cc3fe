"""Answers for pictures, block by block, and as rows of a file."""

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
from clip_fewshot.data.parquet import PARQUET, import_pyarrow
from clip_fewshot.open_world.answers import Answer
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.report.tables import format_csv
from clip_fewshot.runtime.files import name_partial, open_resumable, replace_file
from clip_fewshot.runtime.outputs import check_file
from clip_fewshot.runtime.progress import report_steps

Row = Mapping[str, Any]
AddRows = Callable[[Sequence[Row]], None]
EXCEL_MARK = "\ufeff"  # else Excel reads "Käfer" as "KÃ¤fer"; pandas, R's readr and our own reader pass over it
OPENINGS = {".csv": f"{EXCEL_MARK}image,answer,".encode(), ".jsonl": b'{"image": '}  # how a file of ours begins
FORMULA = re.compile(r"[=+\-@\t\r](?!\d*\.?\d*$)")  # what Excel would run, as `=HYPERLINK(...)`; -1 is a number
ANSWER_BLOCK = 256  # pictures looked at before their rows are written; a multiple of a batch, so that no number changes


def answer_pictures(
    world: OpenWorldClassifier,
    pictures: ImageDataset,
    top: int,
    together: bool,
    keep: Callable[[ImageDataset, Sequence[Answer]], None] = lambda block, answers: None,
) -> tuple[list[Answer], Shift]:
    """What ``world.predict`` answers and ``world.find_shift`` finds; nothing is remembered.

    Args:
        keep: takes each block of pictures and its answers once it is looked at; ``together`` makes one block of all.
    """
    world.calibrate_quickly()
    size = len(pictures) if together else ANSWER_BLOCK
    answers, seen = list[Answer](), []
    for start in report_steps(range(0, len(pictures), size), "answer", len(pictures), size):
        block = pictures.subset(np.arange(start, min(start + size, len(pictures))))
        sight = world.look(block)
        said = world.judge(sight, top, together)
        keep(block, said)
        answers += said
        seen.append(sight.frozen)
    return answers, find_shift(*world.reference_, np.concatenate(seen), world.model.seed)


def check_answer_file(path: Path, overwrite: bool, options: Any) -> Path:
    """``path``, if answers may be written there: nothing is, or ``overwrite``; what an interrupted run left is ours."""
    check_file(path, overwrite, options, is_own=lambda there: False)
    if path.suffix == PARQUET:
        import_pyarrow()
    else:
        check_file(name_partial(path), overwrite, options, is_own=lambda there: _is_begun(there, OPENINGS[path.suffix]))
    return path


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
    is_table, began = path.suffix == ".csv", False
    with open_resumable(path) as file:  # held: the rows of two runs would mix
        file.truncate(0)

        def add(rows: Sequence[Row]) -> None:
            nonlocal began
            lines = _csv_lines(rows, head=not began) if is_table else _json_lines(rows)
            file.write(f"{lines}\n".encode("utf-8", "backslashreplace"))
            file.flush()
            began = True

        yield add


def _csv_lines(rows: Sequence[Row], head: bool) -> str:
    cells = [[_format_cell(name, value) for name, value in row.items()] for row in rows]
    lines = format_csv([list(rows[0]), *cells] if head else cells).removesuffix("\n")
    return f"{EXCEL_MARK}{lines}" if head else lines


def _format_cell(name: str, value: Any) -> str:
    text = "" if value is None else str(value)
    if not isinstance(value, str) or not FORMULA.match(text):
        return text
    return f"./{text}" if name == "image" else f"'{text}"


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
