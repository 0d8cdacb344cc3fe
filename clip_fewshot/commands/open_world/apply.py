"""Carry out what was decided on the page: `clip-fewshot open-world apply store/ review.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.open_world.shared import StoreOptions, number, open_store, print_answer

if TYPE_CHECKING:
    from clip_fewshot.open_world.add_class import Extension

DESCRIPTION = "Carry out a saved review, all of it or nothing."
EXAMPLES = ("store/ review.json", "store/ ~/Downloads/review.json --json")


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    review: Path = field(
        metadata={"positional": True, "metavar": "REVIEW", "help": "the review.json that the page saved"}
    )


def main(options: Options) -> int:
    with open_store(options.store, options) as store:
        done = store.apply(options.review)
        names = store.world.model.label_space_.names
    record = {"revision": done.revision, "again": done.again, "classes": list(names)}
    record["reports"] = [report.to_json() for report in done.reports]
    if done.again:
        print_answer(
            options, record, f"this review was applied before, as revision {done.revision}; nothing has changed"
        )
        return 0
    classes = number(len(names), "class", "classes")
    lines = [f"revision {done.revision}: {classes}", *(_said(report) for report in done.reports)]
    print_answer(options, record, "\n".join(lines))
    opening.warn(note for report in done.reports for note in report.notes)
    return 0


def _said(report: Extension) -> str:
    from clip_fewshot.data.names import escape

    given = ", ".join(f"{escape(name)} ({number(n, 'picture')})" for name, n in report.pictures.items())
    how = "all was trained again" if report.refitted else "the logits of the other classes keep their bytes"
    return f"{given}: {how}. {_change(report)}"


def _change(report: Extension) -> str:
    from clip_fewshot.report import tables

    if report.before is None or report.after is None or report.change is None:
        return "What it did to the known classes cannot be measured: one picture of some class only."
    before, after = tables.estimate(report.before.mean, report.before.ci95), tables.format_fraction(report.after.mean)
    low, high = report.change.ci95
    return (
        f"On held-out pictures of the classes before, accuracy goes from {before} to {after}: "
        f"{report.change.mean:+.3f} [{low:+.3f}, {high:+.3f}]."
    )
