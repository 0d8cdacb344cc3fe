"""A page on which a person decides: `clip-fewshot open-world review store/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.imports import import_quickly
from clip_fewshot.commands.open_world.shared import NamingOptions, next_step, open_store, print_answer
from clip_fewshot.config import OutputOptions, check_range, option
from clip_fewshot.data.names import escape, number

DESCRIPTION = "Write a page on which to name, merge, split, move and reject; it saves review.json."
EXAMPLES = ("store/", "store/ --out week-3.html --words animals.txt")
REVIEW_OUT = "review.html"


@dataclass(frozen=True, kw_only=True)
class Options(NamingOptions, OutputOptions):
    out: str | None = option(None, f"the page (default: {REVIEW_OUT})", group="output")
    shown: int = option(1000, "thumbnails of each group, and of the pictures in none", group="output")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "shown")


def main(options: Options) -> int:
    with import_quickly():
        from clip_fewshot.report.review import render_review, review_view
        from clip_fewshot.runtime.outputs import shorten_home, write_marked

    out = opening.choose_file(options, Path(options.out or REVIEW_OUT))
    words = opening.read_words(options.words)
    templates = opening.open_templates(options, ())
    with open_store(options.store, options) as store:
        view = review_view(
            store, options.store.resolve().name, options.names, words, options.shown, templates, out.parent
        )
    write_marked(out, shorten_home(render_review(view)))
    record = {
        "page": str(out),
        "revision": view.revision,
        "groups": len(view.groups),
        "unknown": len(view.unknown.answered),
    }
    groups = f"{number(len(view.unknown.answered), 'picture')} in {number(len(view.groups), 'group')}"
    print_answer(options, record, f"{escape(out)}: {groups}, revision {view.revision}")
    next_step(options, f"next: open it, save review.json, then apply {escape(options.store)} review.json")
    return 0
