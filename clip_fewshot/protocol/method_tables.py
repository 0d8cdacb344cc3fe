"""The comparison of methods as tables (Markdown, CSV, LaTeX) and curves, and the mean over several sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from clip_fewshot.data.names import escape, number
from clip_fewshot.evaluation.variance import CONFIDENCE_LEVEL
from clip_fewshot.plots import shots_panels
from clip_fewshot.plots.methods import display_name
from clip_fewshot.plots.views import ShotPoint
from clip_fewshot.report import tables
from clip_fewshot.report.schema import check_comparison
from clip_fewshot.runtime.files import write_text
from clip_fewshot.runtime.outputs import COMPARISON_FOLDER, mark_folder, write_results

MEAN_OF_SETS = "mean of the sets"
LEAST_SETS = 3  # for an interval: two say nothing of how sets differ
NOT_THERE = "-"
RANGES = {"accuracy": (0.0, 1.0), "difference": (-1.0, 1.0), "loss": (0.0, np.inf)}
CSV_HEAD = (
    *("set", "model", "method", "shots", "accuracy", "accuracy_low", "accuracy_high"),
    *("difference", "difference_low", "difference_high", "loss", "seconds", "parameters", "error"),
)


def describe_head(entry: Mapping[str, Any]) -> str:
    """What stands above the rows of one set."""
    first = (
        f"**{escape(entry['name'])}**, {escape(entry['model'])}, {number(entry['n_classes'], 'class', 'classes')}, "
        f"{number(entry['n_test'], 'sealed test picture')}, "
        f"{number(len(entry['draws']), 'support set')}, 95 % intervals:"
    )
    return f"{first}\n\n{tables.format_markdown([head_cells(entry['shots'])])}"


def head_cells(counts: Sequence[int]) -> list[str]:
    """The head of the table of accuracies."""
    return ["shots per class", *map(str, counts), "seconds", "numbers kept"]


def method_cells(row: Mapping[str, Any]) -> list[str]:
    """A method's line: accuracies, then seconds and size at the most shots."""
    last = next((point for point in reversed(row["points"]) if "error" not in point), None)
    cost = [NOT_THERE] * 2 if last is None else [f"{last['seconds']:.2f}", f"{last['parameters']:,}"]
    return [row["method"], *_cells(row, "accuracy"), *cost]


def describe_differences(entry: Mapping[str, Any]) -> str:
    """Two tables: accuracy less that of the reference, on the same support sets and pictures; and the loss."""
    counts, reference = [str(n) for n in entry["shots"]], entry["reference"]
    head, rows = [f"accuracy minus {reference}", *counts], entry["rows"]
    lines = [[row["method"], *_cells(row, "difference")] for row in rows if row["method"] != reference]
    losses = [[row["method"], *_cells(row, "loss")] for row in rows]
    parts = [tables.format_markdown([head, *lines])] if lines else []
    return "\n" + "\n\n".join([*parts, tables.format_markdown([["log loss", *counts], *losses])]) + "\n"


def describe_summary(summary: Mapping[str, Any]) -> str:
    """The same tables of the means over sets."""
    rows = [head_cells(summary["shots"]), *map(method_cells, summary["rows"])]
    first = f"**{MEAN_OF_SETS}** {', '.join(map(escape, summary['sets']))}; intervals from {LEAST_SETS} sets on:"
    return f"{first}\n\n{tables.format_markdown(rows)}\n{describe_differences(summary)}"


def _cells(row: Mapping[str, Any], what: str) -> list[str]:
    return [_cell(point.get(what), what) for point in row["points"]]


def _cell(value: Mapping[str, Any] | None, what: str) -> str:
    if value is None:
        return NOT_THERE
    if what == "difference":
        return format_difference(value)
    return f"{value['mean']:.3f}" if value.get("ci95") is None else tables.estimate_of(value)


def format_difference(value: Mapping[str, Any]) -> str:
    """A signed difference with its interval, where it has one."""
    if value.get("ci95") is None:
        return f"{value['mean']:+.3f}"
    low, high = value["ci95"]
    return f"{value['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def summarise_sets(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over sets, each of which weighs the same, as rows like those of a set.

    A cell is there where all sets have that method and number of shots; from three sets on with Student's interval,
    which speaks of further sets like these.
    """
    counts = [n for n in entries[0]["shots"] if all(n in entry["shots"] for entry in entries)]
    names = [row["method"] for row in entries[0]["rows"]]
    references = {entry["reference"] for entry in entries}
    return {
        "name": MEAN_OF_SETS,
        "sets": [entry["name"] for entry in entries],
        "reference": references.pop() if len(references) == 1 else "each set's own reference",
        "shots": counts,
        "rows": [{"method": name, "points": [_mean_point(entries, name, n) for n in counts]} for name in names],
    }


def _mean_point(entries: Sequence[Mapping[str, Any]], name: str, shots: int) -> dict[str, Any]:
    points = [
        point
        for entry in entries
        for row in entry["rows"]
        for point in row["points"]
        if (row["method"], point["shots"]) == (name, shots)
    ]
    lacking = [point["error"] for point in points if "error" in point]
    if lacking or len(points) < len(entries):
        return {"shots": shots, "error": lacking[0] if lacking else "not measured on each set"}
    found: dict[str, Any] = {"shots": shots}
    for what, (low, high) in RANGES.items():
        values = [point[what]["mean"] for point in points if point[what] is not None]
        found[what] = mean_of_sets(values, low, high) if len(values) == len(points) else None
    return found | {
        "seconds": float(np.mean([point["seconds"] for point in points])),
        "parameters": max(point["parameters"] for point in points),
    }


def mean_of_sets(values: Sequence[float], low: float, high: float) -> dict[str, Any]:
    """``mean``, ``ci95`` by Student's t inside [low, high] (None under three sets) and ``per_set``."""
    mean, interval = float(np.mean(values)), None
    if len(values) >= LEAST_SETS:
        quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE_LEVEL) / 2))
        reach = quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5
        interval = [max(low, mean - reach), min(high, mean + reach)]
    return {"mean": mean, "ci95": interval, "per_set": list(values)}


def list_csv_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """All numbers of all sets, a line for each method and number of shots, at full precision."""
    rows = [list(CSV_HEAD)]
    for entry in record["sets"]:
        for row in entry["rows"]:
            for point in row["points"]:
                start = [entry["name"], entry["model"], row["method"], str(point["shots"])]
                rows.append([*start, *_csv_numbers(point), point.get("error", "")])
    return rows


def _csv_numbers(point: Mapping[str, Any]) -> list[str]:
    if "error" in point:
        return [""] * 9
    cells: list[str] = []
    for one in (point["accuracy"], point["difference"]):
        cells += [""] * 3 if one is None else [repr(one["mean"]), *map(repr, one["ci95"])]
    return [*cells, repr(point["loss"]["mean"]), repr(point["seconds"]), str(point["parameters"])]


def save_methods(record: Mapping[str, Any], folder: Path) -> None:
    """compare.json, compare.csv and compare.tex, of what there is so far."""
    check_comparison(record)
    mark_folder(folder, COMPARISON_FOLDER)
    write_results(folder / "compare.json", record)
    write_text(folder / "compare.csv", tables.format_csv(list_csv_rows(record)))
    entries = [*record["sets"], *([record["summary"]] if record["summary"] else [])]
    write_text(folder / "compare.tex", "\n\n".join(map(_latex, entries)) + "\n")


def _latex(entry: Mapping[str, Any]) -> str:
    table = tables.format_latex([head_cells(entry["shots"]), *map(method_cells, entry["rows"])])
    return f"% {escape(entry['name'])}\n{table}"


def draw_methods(record: Mapping[str, Any], folder: Path) -> None:
    """compare.svg: accuracy by shots, a panel for each set; nothing where no method has a result."""
    panels = {}
    for entry in record["sets"]:
        curves = {display_name(row["method"]): _curve(row) for row in entry["rows"]}
        panels[entry["name"]] = {name: curve for name, curve in curves.items() if curve}
    if all(panels.values()):
        write_text(folder / "compare.svg", shots_panels(panels).svg)


def _curve(row: Mapping[str, Any]) -> list[ShotPoint]:
    there = [point for point in row["points"] if "error" not in point]
    return [ShotPoint(one["shots"], one["accuracy"]["mean"], *one["accuracy"]["ci95"]) for one in there]


def list_errors(row: Mapping[str, Any]) -> list[str]:
    """Why a method has no result, a sentence for each reason."""
    found: dict[str, list[str]] = {}
    for point in row["points"]:
        if "error" in point:
            found.setdefault(point["error"], []).append(str(point["shots"]))
    return [f"{row['method']} has no result at {', '.join(shots)} shots: {why}" for why, shots in found.items()]


def count_results(record: Mapping[str, Any]) -> tuple[int, int]:
    """How many cells there are, and how many of them lack a result."""
    points = [point for entry in record["sets"] for row in entry["rows"] for point in row["points"]]
    return len(points), sum("error" in point for point in points)
