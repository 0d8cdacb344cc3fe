"""What a person decides over a store: review, apply, undo."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import clip_fewshot as cf
from experiments import opening, tables
from experiments.open_world.common import ModelOptions, next_step, number, opened, tell
from experiments.open_world.looking import check_names, words_of


@dataclass(frozen=True, kw_only=True)
class ReviewOptions(ModelOptions):
    out: Path = cf.option(Path("review.html"), "the page")
    names: int = cf.option(5, "names to suggest per group; 0 for none")
    words: Path | None = cf.option(None, "a text file of names to choose from, one a line, instead of the shipped list")
    shown: int = cf.option(120, "thumbnails of each group, and of the pictures in none")

    def __post_init__(self) -> None:
        check_names(self.names)
        if self.shown < 1:
            raise cf.UsageError(expected="1 or more", got=str(self.shown), fix="change --shown", where="--shown")


@dataclass(frozen=True, kw_only=True)
class ApplyOptions(ModelOptions):
    review: Path = field(
        metadata={"positional": True, "metavar": "REVIEW", "help": "the review.json that the page saved"}
    )


@dataclass(frozen=True, kw_only=True)
class UndoOptions(ModelOptions):
    pass


def review(options: ReviewOptions) -> int:
    words = words_of(options.words)
    with opened(options) as store:
        view = cf.review_view(store, options.store.resolve().name, options.names, words, options.shown)
    cf.write_text(options.out, cf.render_review(view))
    record = {
        "page": str(options.out),
        "revision": view.revision,
        "groups": len(view.groups),
        "unknown": len(view.digests),
    }
    groups = f"{number(len(view.digests), 'unknown picture')} in {number(len(view.groups), 'group')}"
    tell(options, record, f"{cf.shown(options.out)}: {groups}, revision {view.revision}")
    next_step(options, f"next: open it, save review.json, then apply {cf.shown(options.store)} review.json")
    return 0


def apply(options: ApplyOptions) -> int:
    with opened(options) as store:
        done = store.apply(options.review)
        names = store.world.model.label_space_.names
    record = {"revision": done.revision, "again": done.again, "classes": list(names)}
    record["reports"] = [report.to_json() for report in done.reports]
    if done.again:
        tell(options, record, f"this review was applied before, as revision {done.revision}; nothing has changed")
        return 0
    classes = number(len(names), "class", "classes")
    lines = [f"revision {done.revision}: {classes}", *(_said(report) for report in done.reports)]
    tell(options, record, "\n".join(lines))
    opening.warn(note for report in done.reports for note in report.notes)
    return 0


def undo(options: UndoOptions) -> int:
    with opened(options) as store:
        before = store.world.model.label_space_.names
        done = store.undo()
        after = store.world.model.label_space_.names
    gone = [name for name in before if name not in after]
    text = f"revision {done.revision}: {number(len(after), 'class', 'classes')} as before"
    text += f"; {_listed(gone)} taken back" if gone else ""
    tell(options, {"revision": done.revision, "classes": list(after), "taken_back": gone}, text)
    return 0


def _said(report: cf.Extension) -> str:
    given = ", ".join(f"{cf.shown(name)} ({number(n, 'picture')})" for name, n in report.pictures.items())
    how = "all was trained again" if report.refitted else "the logits of the other classes keep their bytes"
    return f"{given}: {how}. {_change(report)}"


def _change(report: cf.Extension) -> str:
    if report.before is None or report.after is None or report.change is None:
        return "What it did to the known classes cannot be measured: one picture of some class only."
    before, after = tables.estimate(report.before.mean, report.before.ci95), tables.fraction(report.after.mean)
    low, high = report.change.ci95
    return (
        f"On held-out pictures of the classes before, accuracy goes from {before} to {after}: "
        f"{report.change.mean:+.3f} [{low:+.3f}, {high:+.3f}]."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(cf.shown, names))
