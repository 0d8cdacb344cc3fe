"""The results of runs as one table, for a spreadsheet, a data frame or a paper."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from clip_fewshot.data.parquet import PARQUET, import_pyarrow
from clip_fewshot.errors import ArtifactError
from clip_fewshot.report import tables
from clip_fewshot.report.headline import FIGURES, headline_rows
from clip_fewshot.report.schema import check_results
from clip_fewshot.runtime.files import read_json, write_bytes, write_text
from clip_fewshot.runtime.result_rows import ResultRows

RESULTS_FILE = "results.json"
TEXT_TABLES = {".csv": tables.format_csv, ".tex": tables.format_latex, ".md": tables.format_markdown}
READ_COLUMNS = ("run", "method", "accuracy", "macro-F1", *FIGURES.values(), "n")  # where lines are short


def list_results(runs: Sequence[Path]) -> ResultRows[dict[str, Any]]:
    """A row per run and method; fractions in [0, 1], None for what is not known.

    Columns: run, data, model, shots, seeds, method, accuracy, low and high (95 % interval), macro_f1, nll, brier, ece,
    n_test, best, settings.

    Args:
        runs: folders of few-shot runs, or their results.json.

    Raises:
        ArtifactError: no results there, or damaged ones.
    """
    return ResultRows(row for run in runs for row in _read_rows(run))


def _read_rows(run: Path) -> list[dict[str, Any]]:
    path = run / RESULTS_FILE if run.is_dir() else run
    if not path.is_file():
        fix = "name the folder of a few-shot run that has ended"
        raise ArtifactError(expected=f"a {RESULTS_FILE}", got="none", fix=fix, where=str(run))
    results = read_json(path)
    check_results(results)
    config = results["config"]
    what = {"run": path.absolute().parent.name, "data": results["dataset"]["name"], "model": config.get("model")}
    what |= {"shots": config.get("shots"), "seeds": len(results["seeds"])}
    return [
        what
        | {"method": row.name, "accuracy": row.mean, "low": row.low, "high": row.high, "macro_f1": row.macro_f1}
        | {name: row.figures[name]["mean"] if name in row.figures else None for name in FIGURES}
        | {"n_test": row.n_test, "best": row.best, "settings": row.settings}
        for row in headline_rows(results)
    ]


def format_results(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Cells of a table that is read: some columns, three decimals, the interval behind the accuracy."""
    cells = []
    for row in rows:
        accuracy = tables.estimate(row["accuracy"], (row["low"], row["high"]))
        known = [tables.format_known(row[name]) for name in ("macro_f1", *FIGURES)]
        cells.append([row["run"], row["method"], accuracy, *known, str(row["n_test"])])
    return [list(READ_COLUMNS), *cells]


def write_result_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """CSV and Parquet of all columns in full precision; Markdown and LaTeX of those that are read.

    Raises:
        ResourceError: Parquet without pyarrow.
    """
    if path.suffix == PARQUET:
        arrow, parquet = import_pyarrow()
        whole = BytesIO()
        parquet.write_table(arrow.Table.from_pylist(list(rows)), whole)
        write_bytes(path, whole.getvalue())
        return
    every = [list(rows[0]), *(["" if value is None else str(value) for value in row.values()] for row in rows)]
    write_text(path, TEXT_TABLES[path.suffix](every if path.suffix == ".csv" else format_results(rows)).rstrip() + "\n")
