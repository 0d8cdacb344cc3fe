"""What a class more did to the classes before, in a sentence."""

from __future__ import annotations

from clip_fewshot.data.names import escape, number
from clip_fewshot.open_world.add_class import Extension
from clip_fewshot.report import tables


def describe_extension(report: Extension) -> str:
    """Classes with their numbers of pictures, how they were learned, and the accuracy before and after."""
    counts = [f"{escape(name)} ({number(n, 'picture')})" for name, n in report.pictures.items()]
    how = "all was trained again" if report.refitted else "what the other classes score stays the same, to the last bit"
    return f"{', '.join(counts)}: {how}. {_change(report)}"


def _change(report: Extension) -> str:
    if report.before is None or report.after is None or report.change is None:
        return "What it did to the known classes cannot be measured: one picture of some class only."
    before, after = tables.estimate(report.before.mean, report.before.ci95), tables.format_fraction(report.after.mean)
    low, high = report.change.ci95
    return (
        f"On held-out pictures of the classes before, accuracy goes from {before} to {after}: "
        f"{report.change.mean:+.3f} [{low:+.3f}, {high:+.3f}]."
    )
