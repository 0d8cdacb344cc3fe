"""Tables as text: aligned for a terminal, Markdown for a README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clip_fewshot.data.names import escape

Rows = Sequence[Sequence[str]]


def format_plain(rows: Rows) -> str:
    """Columns aligned: the first to the left, the others to the right. What would not print is escaped."""
    cells = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in cells
    )


def format_markdown(rows: Rows) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(escape(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]])


def format_fraction(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def estimate(mean: float, ci95: Sequence[float]) -> str:
    """A fraction with its interval: 0.912 [0.895, 0.926]."""
    return f"{mean:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"


def estimate_of(result: Mapping[str, Any]) -> str:
    """The same of a result as it stands in JSON: ``mean`` and ``ci95``."""
    return estimate(result["mean"], result["ci95"])
