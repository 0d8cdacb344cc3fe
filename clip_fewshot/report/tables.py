"""Tables as text: aligned for a terminal, Markdown for a README, CSV for a spreadsheet, LaTeX for a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from clip_fewshot.data.names import escape

Rows = Sequence[Sequence[str]]
LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"}


def format_plain(rows: Rows) -> str:
    """Columns aligned: the first to the left, the others to the right. What would not print is escaped."""
    widths = measure_columns(rows)
    return "\n".join(format_row(row, widths) for row in rows)


def measure_columns(rows: Rows) -> list[int]:
    """The width of each column. Of rows that come one after the other, measure what they will be like."""
    return [max(map(len, map(escape, column))) for column in zip(*rows, strict=True)]


def format_row(row: Sequence[str], widths: Sequence[int]) -> str:
    """One line of such a table."""
    first, *others = map(escape, row)
    return "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip()


def format_markdown(rows: Rows) -> str:
    """A Markdown table; the first row is its head."""
    first, *others = map(format_markdown_row, rows)
    return "\n".join([first, "|---|" + "---:|" * (len(rows[0]) - 1), *others])


def format_markdown_row(row: Sequence[str]) -> str:
    """One line of such a table."""
    return "| " + " | ".join(escape(cell).replace("|", "\\|") for cell in row) + " |"


def format_csv(rows: Rows) -> str:
    """Comma-separated values, a line each."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def format_latex(rows: Rows) -> str:
    """A ``tabular``; the first row is its head, the first column stands to the left."""
    head, *others = (" & ".join("".join(LATEX.get(c, c) for c in escape(cell)) for cell in row) for row in rows)
    lines = [f"\\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", "\\hline", f"{head} \\\\", "\\hline"]
    return "\n".join([*lines, *(f"{line} \\\\" for line in others), "\\hline", "\\end{tabular}"])


def format_fraction(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def format_known(value: float | None) -> str:
    """The same, or "-" for what is not known."""
    return "-" if value is None else format_fraction(value)


def estimate(mean: float, ci95: Sequence[float]) -> str:
    """A fraction with its interval: 0.912 [0.895, 0.926]."""
    return f"{mean:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"


def estimate_of(result: Mapping[str, Any]) -> str:
    """The same of a result as it stands in JSON: ``mean`` and ``ci95``."""
    return estimate(result["mean"], result["ci95"])
