"""What the commands over a store share."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.imports import import_quickly
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.commands.cli.shared_options import CommandOptions, SavedModelOptions
from clip_fewshot.config import TextOptions, check_range, option
from clip_fewshot.data.names import number

if TYPE_CHECKING:
    from clip_fewshot.data.dataset import ImageDataset
    from clip_fewshot.open_world.store.decisions import Applied
    from clip_fewshot.open_world.store.ingesting import Ingested
    from clip_fewshot.open_world.store.session import Session
    from clip_fewshot.open_world.store.store import Store

TRANSACTION = 256  # pictures
STORE = {"positional": True, "metavar": "STORE", "help": "folder of the store"}


@dataclass(frozen=True, kw_only=True)
class StoreOptions(SavedModelOptions):
    """Of commands that need the classifier in the store."""

    store: Path = field(metadata=STORE)


@dataclass(frozen=True, kw_only=True)
class NamingOptions(StoreOptions, TextOptions):
    """Of commands that suggest names for groups."""

    names: int = option(3, "names to suggest per group; 0 for none", group="names")
    words: Path | None = option(
        None, "a text file of names to choose from, one a line, instead of the shipped list", group="names"
    )

    def __post_init__(self) -> None:
        check_range(self, "names", least=0)


@contextmanager
def open_session(folder: Path, options: SavedModelOptions | None = None) -> Iterator[Session]:
    """What a store holds, closed afterwards; for questions without a classifier, which import no torch."""
    from clip_fewshot.open_world.store.session import Session

    backbone, trusted = None, opening.open_trusted(options.trust if options is not None else ())
    if options is not None and options.model is not None:
        from clip_fewshot.backbones.clip import load_backbone

        backbone = load_backbone(options.model, device=options.device)
    session = Session.open(folder, backbone, None, trusted)
    try:
        yield session
    finally:
        session.database.close()


@contextmanager
def open_store(folder: Path, options: SavedModelOptions) -> Iterator[Store]:
    """The store, closed afterwards."""
    with import_quickly():
        from clip_fewshot.open_world.store.store import Store

    with open_session(folder, options) as session:
        yield Store(session)


def print_answer(options: CommandOptions, record: Mapping[str, Any], text: str) -> None:
    """The answer, for machines or for people."""
    print(json.dumps({"schema": 1, **record}, indent=1) if options.json else text)


def print_applied(options: CommandOptions, done: Applied, names: Sequence[str]) -> None:
    """What a decision did, and all classes since."""
    from clip_fewshot.report.extensions import describe_extension

    record = {"revision": done.revision, "again": done.again, "classes": list(names)}
    record["reports"] = [report.to_json() for report in done.reports]
    lines = [f"revision {done.revision}: {number(len(names), 'class', 'classes')}"]
    if done.again:
        lines = [f"this review was applied before, as revision {done.revision}; nothing has changed"]
    print_answer(options, record, "\n".join([*lines, *map(describe_extension, done.reports)]))
    opening.warn(note for report in done.reports for note in report.notes)


def next_step(options: CommandOptions, sentence: str) -> None:
    """What to do now, on standard error."""
    if not options.json:
        print(sentence, file=sys.stderr)


def ingest(store: Store, pictures: ImageDataset, transaction: int = TRANSACTION) -> Ingested:
    """Judge and keep, with a bar on a terminal."""
    with show_progress() as progress:

        def acknowledged(done: Ingested) -> None:
            progress("ingest", done.new + done.seen_before, len(pictures))

        return store.ingest(pictures, transaction, acknowledged)


def describe_ingested(done: Ingested) -> str:
    """What became of the pictures, in a sentence."""
    parts = f"{done.known:,} known, {done.unknown:,} unknown"
    return f"{number(done.new, 'new picture')} ({parts}); {done.seen_before:,} seen before"
