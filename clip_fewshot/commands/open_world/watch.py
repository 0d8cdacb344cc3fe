"""Is something new arriving? `clip-fewshot open-world watch store/ new_pictures/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import pictures_argument
from clip_fewshot.commands.open_world.shared import (
    StoreOptions,
    describe_ingested,
    ingest,
    next_step,
    open_store,
    print_answer,
)
from clip_fewshot.config import check_fractions, option
from clip_fewshot.data.names import escape, number

if TYPE_CHECKING:
    from clip_fewshot.open_world.store.watching import Watched

DESCRIPTION = """Look at what came since the last time; the exit code is 5 when new categories or another camera arrive.
Pictures must come as they were taken, or in a random order: a folder sorted by class can raise an alarm, too."""
EXAMPLES = ("store/ new_pictures/", "store/ --restart --stream-alpha 0.05")
ARRIVING = 5
ARRIVALS = {
    "same": "A NEW CATEGORY",
    "shift": "ANOTHER CAMERA OR STYLE, and no new category,",
    "shift or new": "ANOTHER CAMERA OR STYLE, or new categories only,",
    "alone": "A KNOWN CLASS ALONE, as from a folder sorted by class, or a new category that looks like it,",
}


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    pictures: tuple[Path, ...] = pictures_argument(default=())
    stream_alpha: float | None = option(
        None, "share of streams without anything new that ever raise an alarm, in (0, 1) (default: 0.01)"
    )
    restart: bool = option(False, "forget an alarm, and begin with the next picture")

    def __post_init__(self) -> None:
        check_fractions(self, "stream_alpha")


def main(options: Options) -> int:
    from clip_fewshot.open_world.store.watching import watch
    from clip_fewshot.report.shifts import describe_shift

    with open_store(options.store, options) as store:
        skipped = 0
        if options.pictures:
            pictures = opening.open_pictures(options.pictures)
            skipped = opening.exit_code(pictures)
            next_step(options, describe_ingested(ingest(store, pictures)))
        seen = watch(store, options.stream_alpha, options.restart)
    moved = {name: one and one.to_json() for name, one in (("shift", seen.shift), ("latest", seen.latest))}
    print_answer(options, seen._asdict() | {"arriving": seen.raised_at is not None} | moved, report(seen))
    opening.warn(describe_shift(seen.shift if seen.fresh else seen.latest))
    if seen.raised_at is None:
        return skipped
    next_step(options, "next: discover STORE, or review STORE; a naming begins a new watch, and so does --restart")
    return ARRIVING


def report(seen: Watched) -> str:
    """What was looked at, and whether something new is arriving."""
    begun = "the known classes have changed and the watch has begun again; " * seen.begun_anew
    looked = f"{begun}looked at {number(seen.looked_at, 'new picture')}, {seen.pictures:,} since the watch began"
    if seen.raised_at is None or seen.since is None:
        return f"{looked}: nothing new is arriving (evidence {seen.capital:.2g} of {1 / seen.alpha:g} for an alarm)"
    what = ARRIVALS["alone" if seen.known_alone() else "same" if seen.shift is None else seen.shift.verdict()]
    what = f"{what} {'is arriving' if seen.fresh else 'was arriving before'}, probably since {escape(seen.since)}"
    odds = f"{seen.unknown} of {seen.stretch} called unknown; at most {100 * seen.alpha:g} % of known streams raise one"
    return f"{looked}\n{what}; alarm at {escape(seen.raised_at)} ({odds})"
