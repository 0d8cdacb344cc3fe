"""One line of the benchmark's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.benchmark.timing import Times


@dataclass(frozen=True)
class Check:
    """A figure beside a ratio: that both sides computed the same, or a limit that was kept.

    Attributes:
        bound: the largest value allowed; None where none was promised.
    """

    what: str
    value: float
    bound: float | None = None
    unit: str = ""

    @property
    def holds(self) -> bool:
        """False for NaN as well."""
        return self.bound is None or self.value <= self.bound

    def __str__(self) -> str:
        allowed = "" if self.bound is None else f" ({'≤' if self.holds else 'NOT ≤'} {self.bound:.2g})"
        unit = f" {self.unit}" if self.unit else ""
        value = f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:.2g}"
        return f"{self.what} {value}{unit}{allowed}"


@dataclass(frozen=True)
class Row:
    """What was measured.

    Attributes:
        what: the thing done. per: the unit of work that the times are of.
        ours, naive: times of the two sides; None where there is no such side.
        asked: the least ratio that was promised.
        note: what a reader of the figures must know.
    """

    what: str
    per: str
    ours: Times | None = None
    naive: Times | None = None
    asked: float | None = None
    checks: tuple[Check, ...] = ()
    note: str = ""

    @property
    def cpu_ratio(self) -> float | None:
        """How many times the CPU time of ours the plain way takes, by the medians."""
        return self.naive.cpu / self.ours.cpu if self.naive and self.ours else None

    @property
    def wall_ratio(self) -> float | None:
        """The same by the clock."""
        return self.naive.wall / self.ours.wall if self.naive and self.ours else None

    def to_json(self) -> dict[str, Any]:
        """The form it has in the file of all repeats."""
        return {
            "what": self.what,
            "per": self.per,
            "seconds": {"naive": _times(self.naive), "ours": _times(self.ours)},
            "ratio": {"cpu": self.cpu_ratio, "wall": self.wall_ratio, "asked": self.asked},
            "checks": [
                {"what": c.what, "value": c.value, "bound": c.bound, "unit": c.unit, "holds": c.holds}
                for c in self.checks
            ],
            "note": self.note,
        }


def _times(times: Times | None) -> Mapping[str, Any] | None:
    if times is None:
        return None
    return {
        "cpu": times.cpu,
        "wall": times.wall,
        "repeats": [{"cpu": spent.cpu, "wall": spent.wall} for spent in times.repeats],
    }
