"""What a training measured, line by line, so that a kill loses nothing and a resumed run repeats nothing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clip_fewshot.data.text_files import read_text
from clip_fewshot.errors import DataError
from clip_fewshot.runtime.events import TensorBoard
from clip_fewshot.runtime.files import append_line, write_text
from clip_fewshot.runtime.reading import as_path
from clip_fewshot.runtime.result_rows import ResultRows

METRICS_FILE = "metrics.jsonl"
Figures = Mapping[str, float | int | None]


class MetricsLog:
    """``metrics.jsonl``, one JSON object a line.

    A line is {"step": steps taken, "kind": "train", "validation" or "checkpoint", figures ...}.

    Args:
        folder: where it lies.
        taken: steps that the training has taken; later lines, and half a one, are of a run that was killed, and the
            steps they tell of come again.
        board: shows the same in TensorBoard.
    """

    def __init__(self, folder: Path, taken: int, board: TensorBoard | None = None) -> None:
        self.path, self._board = folder / METRICS_FILE, board
        before = read_text(self.path) if os.path.isfile(self.path) else None
        kept = "".join(f"{line}\n" for line in (before or "").splitlines() if _steps(line) <= taken)
        if kept != before:
            write_text(self.path, kept)

    def add(self, kind: str, step: int, figures: Figures) -> None:
        """Append a line; figures that are not finite become null, which JSON has no number for."""
        finite = {name: value if value is None or math.isfinite(value) else None for name, value in figures.items()}
        event = {"step": step, "kind": kind} | finite
        append_line(self.path, json.dumps(event, allow_nan=False))
        if self._board is not None:
            self._board(event)

    def settle(self, step: int) -> None:
        """Say that a checkpoint comes, and wait until all lines are on the disk: its run will not write them again."""
        append_line(self.path, json.dumps({"step": step, "kind": "checkpoint"}), durable=True)
        if self._board is not None:
            self._board.flush()


def read_history(folder: str | Path) -> ResultRows[dict[str, Any]]:
    """What a training measured, step by step; ``.to_frame()`` makes a DataFrame of it.

    Args:
        folder: where ``metrics.jsonl`` lies, itself or in its folder ``training``.

    Raises:
        DataError: no such file.

    Example:
        >>> import clip_fewshot as cf
        >>> import json, pathlib
        >>> pathlib.Path("metrics.jsonl").write_text(json.dumps({"step": 1, "kind": "train", "loss": 0.5}))
        41
        >>> float(cf.read_history(".").to_frame().loss.mean())
        0.5
    """
    asked = as_path(folder, "folder")
    places = [asked / METRICS_FILE, asked / "training" / METRICS_FILE]
    place = next((place for place in places if os.path.isfile(place)), None)
    if place is None:
        fix = "name the folder of a training"
        raise DataError(expected=f"a folder with {METRICS_FILE}", got="none in it", fix=fix, where=str(folder))
    lines = read_text(place).splitlines()
    return ResultRows(json.loads(line) for line in lines if _steps(line) < math.inf)  # the last may be half a line


def _steps(line: str) -> float:
    """The steps taken at a line; infinitely many at half a line."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
