"""Carry out what was decided on the page: `clip-fewshot open-world apply store/ review.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.commands.open_world.shared import StoreOptions, open_store, print_applied

DESCRIPTION = (
    "Carry out a saved review, all of it or nothing. Or labels: the table, JSON or folder of export, with the labels "
    "that you have changed."
)
EXAMPLES = ("store/ review.json", "store/ groups.csv --json")


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    review: Path = field(
        metadata={"positional": True, "metavar": "REVIEW", "help": "review.json of the page, or labels of a tool"}
    )


def main(options: Options) -> int:
    with open_store(options.store, options) as store:
        done = store.apply(options.review)
        print_applied(options, done, store.world.model.label_space_.names)
    return 0
