"""Pictures into a store: init, ingest, watch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import clip_fewshot as cf
from experiments import opening
from experiments.open_world.common import PICTURES, ModelOptions, code, next_step, number, opened, read, tell
from experiments.progress import show_progress

ARRIVING = 5


@dataclass(frozen=True, kw_only=True)
class InitOptions(ModelOptions):
    saved: Path = field(
        metadata={"positional": True, "metavar": "MODEL", "help": "a saved open-world model, such as runs/first/model"}
    )


@dataclass(frozen=True, kw_only=True)
class IngestOptions(ModelOptions):
    pictures: tuple[Path, ...] = field(metadata=PICTURES)
    batch: int = cf.option(256, "pictures per transaction: what a kill loses at most")

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise cf.UsageError(expected="1 or more", got=str(self.batch), fix="change --batch", where="--batch")


@dataclass(frozen=True, kw_only=True)
class WatchOptions(ModelOptions):
    pictures: tuple[Path, ...] = field(default=(), metadata=PICTURES | {"help": "ingest these first"})
    alpha: float | None = cf.option(None, "share of streams without anything new that ever raise an alarm; first 0.01")
    restart: bool = cf.option(False, "forget an alarm, and begin with the next picture")

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise cf.UsageError(
                expected="a number between 0 and 1", got=f"{self.alpha:g}", fix="change --alpha", where="--alpha"
            )


def init(options: InitOptions) -> int:
    world = opening.saved_model(options.saved, options.model, options.device)
    if world.rejector_ is None:
        fix = 'save one that can say "unknown", as experiments.few_shot does'
        raise cf.UsageError(expected="a model with a detector", got="one without", fix=fix, where=str(options.saved))
    refusal = world.rejector_.refusal(world.alpha)
    opening.warn([f"no picture will be called unknown: {refusal}"] if refusal else [])
    names = world.model.label_space_.names
    with cf.Store.create(options.store, world) as store:
        record = {"store": store.id, "revision": store.revision, "classes": list(names), "alpha": world.alpha}
    text = f"store {cf.shown(options.store)} with {number(len(names), 'known class', 'known classes')}"
    tell(options, record, text)
    return 0


def ingest(options: IngestOptions) -> int:
    with opened(options) as store:
        pictures = read(options.pictures)
        done = _ingested(store, pictures, options.batch)
    tell(options, done._asdict() | {"skipped": len(pictures.skipped)}, _said(done))
    return code(pictures)


def watch(options: WatchOptions) -> int:
    with opened(options) as store:
        skipped = 0
        if options.pictures:
            pictures = read(options.pictures)
            skipped = code(pictures)
            next_step(options, _said(_ingested(store, pictures)))
        seen = cf.watch(store, options.alpha, options.restart)
    tell(options, seen._asdict() | {"arriving": seen.raised_at is not None}, _report(seen))
    if seen.raised_at is not None:
        next_step(options, "next: discover STORE, or review STORE; a naming begins a new watch, and so does --restart")
    return ARRIVING if seen.raised_at is not None else skipped


def _ingested(store: cf.Store, pictures: cf.ImageDataset, batch: int = 256) -> cf.Ingested:
    with show_progress() as progress:

        def acknowledged(done: cf.Ingested) -> None:
            progress("ingest", done.new + done.seen_before, len(pictures))

        return store.ingest(pictures, batch, acknowledged)


def _said(done: cf.Ingested) -> str:
    parts = f"{done.known:,} known, {done.unknown:,} unknown"
    return f"{number(done.new, 'new picture')} ({parts}); {done.seen_before:,} seen before"


def _report(seen: cf.Watched) -> str:
    begun = "the known classes have changed, and the watch has begun anew; " if seen.begun_anew else ""
    looked = f"{begun}looked at {number(seen.looked_at, 'new picture')}, {seen.pictures:,} since the watch began"
    if seen.raised_at is None or seen.since is None:
        strength = f"evidence {seen.capital:.2g} of the {1 / seen.alpha:g} that raise an alarm"
        return f"{looked}: nothing new is arriving ({strength})"
    verb = "is arriving" if seen.fresh else "was arriving before"
    since, at = cf.shown(seen.since), cf.shown(seen.raised_at)
    odds = f"at most {100 * seen.alpha:g} % of streams of known pictures ever raise an alarm"
    return f"{looked}\nA NEW CATEGORY {verb}, probably since {since}; alarm at {at} ({odds})"
