"""The figures as a Markdown page, line by line as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clip_fewshot.report import tables
from experiments.benchmark.row import Row
from experiments.benchmark.timing import Times

HEAD = ("", "plain way: CPU (wall)", "ours: CPU (wall)", "ratio: CPU (wall)", "asked", "checks")


def head() -> str:
    """The first two lines of a case's table."""
    return tables.format_markdown([HEAD])


def line(row: Row) -> str:
    """One line of it."""
    return tables.format_markdown([HEAD, cells(row)]).splitlines()[2]


def cells(row: Row) -> Sequence[str]:
    """The cells of a line."""
    asked = "" if row.asked is None else f"≥ {row.asked:.3g}x"
    checks = "; ".join(map(str, row.checks))
    named = f"{row.what}, per {row.per}" if row.per else row.what
    return (named, _times(row.naive), _times(row.ours), _ratio(row), asked, checks)


def duration(seconds: float) -> str:
    """Three digits in a fitting unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 else f"{seconds:,.0f} s"
    return f"{seconds * 1e6:.3g} µs"


def circumstances(options: Mapping[str, Any], load: tuple[Sequence[float], Sequence[float]]) -> str:
    """Repeats, threads, and the load average (1 minute) before and after; none on systems without one."""
    before, after = load
    busy = f"load average {before[0]:.1f} before, {after[0]:.1f} after" if before and after else "load average unknown"
    threads = "1 thread" if options["threads"] == 1 else f"{options['threads']} threads"
    return f"Medians of {options['repeats']} repeats in turns, {threads}, {busy}."


def _times(times: Times | None) -> str:
    return "" if times is None else f"{duration(times.cpu)} ({duration(times.wall)})"


def _ratio(row: Row) -> str:
    if row.cpu_ratio is None or row.wall_ratio is None:
        return ""
    short = row.asked is not None and row.cpu_ratio < row.asked
    ratio = f"{row.cpu_ratio:.3g}x"
    return f"{f'{ratio} (short)' if short else f'**{ratio}**'} ({row.wall_ratio:.3g}x)"
