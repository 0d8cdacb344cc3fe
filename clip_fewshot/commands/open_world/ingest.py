"""Pictures into a store: `clip-fewshot open-world ingest store/ photos/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import pictures_argument
from clip_fewshot.commands.open_world.shared import (
    TRANSACTION,
    StoreOptions,
    describe_ingested,
    ingest,
    open_store,
    print_answer,
)
from clip_fewshot.config import check_range, option

DESCRIPTION = (
    "Judge pictures and keep them. Each is stored once; the same command goes on with a run that was stopped. "
    "New pictures that come from another camera, and are no new classes, are told from those that are."
)
EXAMPLES = ("store/ new_pictures/", "store/ digits --transaction 64")


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    pictures: tuple[Path, ...] = pictures_argument()
    transaction: int = option(TRANSACTION, "pictures that are written at once: what a kill loses at most")

    def __post_init__(self) -> None:
        check_range(self, "transaction")


def main(options: Options) -> int:
    from clip_fewshot.report.shifts import describe_shift

    with open_store(options.store, options) as store:
        pictures = opening.open_pictures(options.pictures)
        newest = store.newest()
        done = ingest(store, pictures, options.transaction)
        shift = store.find_shift(newest)
    record = done._asdict() | {"skipped": len(pictures.skipped), "shift": shift.to_json()}
    print_answer(options, record, describe_ingested(done))
    opening.warn(describe_shift(shift))
    return opening.exit_code(pictures)
