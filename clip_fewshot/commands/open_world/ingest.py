"""Pictures into a store: `clip-fewshot open-world ingest store/ photos/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.commands.cli.shared_options import pictures_argument
from clip_fewshot.commands.open_world.shared import StoreOptions, number, open_store, tell
from clip_fewshot.config import check_least, option

if TYPE_CHECKING:
    from clip_fewshot.data.dataset import ImageDataset
    from clip_fewshot.open_world.store.ingesting import Ingested
    from clip_fewshot.open_world.store.store import Store

DESCRIPTION = "Judge pictures and keep them. Each is stored once; the same command goes on with a run that was stopped."
EXAMPLES = ("store/ new_pictures/", "store/ digits --transaction 64")
TRANSACTION = 256


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    pictures: tuple[Path, ...] = pictures_argument()
    transaction: int = option(TRANSACTION, "pictures that are written at once: what a kill loses at most")

    def __post_init__(self) -> None:
        check_least(self, "transaction")


def main(options: Options) -> int:
    with open_store(options.store, options) as store:
        pictures = opening.open_pictures(options.pictures)
        done = ingest(store, pictures, options.transaction)
    tell(options, done._asdict() | {"skipped": len(pictures.skipped)}, say_ingested(done))
    return opening.exit_code(pictures)


def ingest(store: Store, pictures: ImageDataset, transaction: int = TRANSACTION) -> Ingested:
    """Judge and keep, with a bar on a terminal."""
    with show_progress() as progress:

        def acknowledged(done: Ingested) -> None:
            progress("ingest", done.new + done.seen_before, len(pictures))

        return store.ingest(pictures, transaction, acknowledged)


def say_ingested(done: Ingested) -> str:
    """What became of the pictures, in a sentence."""
    parts = f"{done.known:,} known, {done.unknown:,} unknown"
    return f"{number(done.new, 'new picture')} ({parts}); {done.seen_before:,} seen before"
