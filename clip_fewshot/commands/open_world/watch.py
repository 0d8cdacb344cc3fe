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
    number,
    open_store,
    print_answer,
)
from clip_fewshot.config import check_fractions, option

if TYPE_CHECKING:
    from clip_fewshot.open_world.store.watching import Watched

DESCRIPTION = "Look at what came since the last time; the exit code is 5 when new categories or another camera arrive."
EXAMPLES = ("store/ new_pictures/", "store/ --restart --stream-alpha 0.05")
ARRIVING = 5
ARRIVALS = {
    "same": "A NEW CATEGORY",
    "shift": "ANOTHER CAMERA OR STYLE, and no new category,",
    "shift or new": "ANOTHER CAMERA OR STYLE, or new categories only,",
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
    about = {"arriving": seen.raised_at is not None, "shift": seen.shift and seen.shift.to_json()}
    print_answer(options, seen._asdict() | about, report(seen))
    opening.warn(describe_shift(seen.shift))
    if seen.raised_at is not None:
        next_step(options, "next: discover STORE, or review STORE; a naming begins a new watch, and so does --restart")
    return ARRIVING if seen.raised_at is not None else skipped


def report(seen: Watched) -> str:
    """What was looked at, and whether something new is arriving."""
    from clip_fewshot.conformal.shift import UNMOVED
    from clip_fewshot.data.names import escape

    begun = "the known classes have changed, and the watch has begun again; " if seen.begun_anew else ""
    looked = f"{begun}looked at {number(seen.looked_at, 'new picture')}, {seen.pictures:,} since the watch began"
    if seen.raised_at is None or seen.since is None:
        strength = f"evidence {seen.capital:.2g} of the {1 / seen.alpha:g} that raise an alarm"
        return f"{looked}: nothing new is arriving ({strength})"
    verb = "is arriving" if seen.fresh else "was arriving before"
    since, at = escape(seen.since), escape(seen.raised_at)
    odds = f"at most {100 * seen.alpha:g} % of streams of known pictures ever raise an alarm"
    what = ARRIVALS[UNMOVED if seen.shift is None else seen.shift.verdict()]
    return f"{looked}\n{what} {verb}, probably since {since}; alarm at {at} ({odds})"
