"""Runs side by side, in the forms that people take away."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from clip_fewshot.report.result_tables import list_results
from tests.commands.conftest import Command, one_line
from tests.report.sample import results


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    found = [tmp_path / name for name in ("first", "sec_ond")]
    for folder in found:
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(results()))
    return found


def test_every_form_says_the_same(runs: list[Path], command: Command, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = command("results", *runs, "--json").record["results"]
    assert [row["run"] for row in rows] == sorted(row["run"] for row in rows)
    assert {row["method"] for row in rows if row["best"]} != set()
    for form in (".csv", ".tex", ".md"):
        command("results", *runs, "--out", tmp_path / f"table{form}")
    with (tmp_path / "table.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in read] == [row["accuracy"] for row in rows]
    first = rows[0]
    accuracy = f"{first['accuracy']:.3f} [{first['low']:.3f}, {first['high']:.3f}]"
    for form, end in ((".tex", r"\\"), (".md", " |")):
        lines = (tmp_path / f"table{form}").read_text().splitlines()
        (told, _) = [line for line in lines if first["method"] in line and line.endswith(end)]
        assert accuracy in told
    assert r"sec\_ond" in (tmp_path / "table.tex").read_text()
    assert accuracy in command("results", runs[0]).out


def test_parquet_keeps_numbers(runs: list[Path], command: Command, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)
    command("results", *runs, "--out", tmp_path / "table.parquet")
    assert parquet.read_table(tmp_path / "table.parquet").to_pylist() == list_results(runs)


def test_nothing_of_the_users_is_replaced(runs: list[Path], command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("mine")
    one_line(command("results", *runs, "--out", tmp_path / "mine.csv"), 4, "choose another place")
    assert (tmp_path / "mine.csv").read_text() == "mine"
    one_line(command("results", tmp_path), 2, "expected a results.json, got none")
    assert command("results", *runs, "--out", tmp_path / "table.xls").code == 2
    (runs[0] / "results.json").write_text('{"schema": 1}')
    assert command("results", *runs).code == 2
