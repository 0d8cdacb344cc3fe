"""An audit as text: what was found, the first rows behind it, and the sizes of the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clip_fewshot.data.names import escape, number
from clip_fewshot.report.tables import format_plain

ROWS_SHOWN = 5  # rows of each check; JSON has them all


def describe_audit(found: Mapping[str, Any]) -> str:
    """Lines for a terminal, from a dict of schema 1."""
    sides = ", ".join(f"{n:,} {side}" for side, n in found["sides"].items())
    return "\n".join([f"{found['data']}: {number(found['pictures'], 'picture')} ({sides})", *_describe(found)])


def _describe(found: Mapping[str, Any]) -> Iterator[str]:
    width = max(map(len, found["checks"]))
    for name, check in found["checks"].items():
        advice = f": {check['advice']}" if check["advice"] else ""
        yield f"{'!' if check['found'] else ' '} {name.ljust(width)}  {escape(check['said'])}{advice}"
        if check["found"]:
            yield from _list_rows(check["rows"])
    if found["classes"]:
        sides = list(next(iter(found["classes"].values())))
        rows = [[name, *(f"{counts[side]:,}" for side in sides)] for name, counts in found["classes"].items()]
        yield f"\n{format_plain([['class', *sides], *rows])}"


def _list_rows(rows: list[Mapping[str, Any]]) -> Iterator[str]:
    if rows:
        table = [list(rows[0]), *([_show(value) for value in row.values()] for row in rows[:ROWS_SHOWN])]
        yield from (f"      {line}" for line in format_plain(table).splitlines())
    if len(rows) > ROWS_SHOWN:
        yield f"      and {len(rows) - ROWS_SHOWN:,} more (--json lists them)"


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
