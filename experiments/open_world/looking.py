"""What a store holds and says: status, discover, predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clip_fewshot as cf
from experiments import opening, tables
from experiments import predict as predicting
from experiments.open_world.common import PICTURES, ModelOptions, StoreOptions, code, number, opened, read, tell


@dataclass(frozen=True, kw_only=True)
class StatusOptions(StoreOptions):
    history: bool = cf.option(False, "list every decision")


@dataclass(frozen=True, kw_only=True)
class DiscoverOptions(ModelOptions):
    names: int = cf.option(3, "names to suggest per group; 0 for none")
    words: Path | None = cf.option(None, "a text file of names to choose from, one a line, instead of the shipped list")

    def __post_init__(self) -> None:
        check_names(self.names)


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ModelOptions):
    pictures: tuple[Path, ...] = field(metadata=PICTURES)
    top: int = cf.option(5, "most probable classes per picture")

    def __post_init__(self) -> None:
        if self.top < 1:
            raise cf.UsageError(expected="1 or more", got=str(self.top), fix="change --top", where="--top")


def check_names(names: int) -> None:
    """Refuse less than none."""
    if names < 0:
        raise cf.UsageError(expected="0 or more", got=str(names), fix="change --names", where="--names")


def words_of(path: Path | None) -> list[str] | None:
    """The names in a text file; None for the shipped list."""
    if path is None:
        return None
    try:
        words = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise cf.DataError(
            expected="a text file of names", got=str(error), fix="check --words", where=str(path)
        ) from error
    if not words:
        raise cf.DataError(expected="a name a line", got="an empty file", fix="check --words", where=str(path))
    return words


def status(options: StatusOptions) -> int:
    with opened(options) as store:
        now, identity = store.status(), store.id
        history = store.history() if options.history else []
    record = now._asdict() | {"store": identity, "states": dict(now.states), "classes": dict(now.classes)}
    counts = ", ".join(f"{n:,} {state}" for state, n in now.states.items())
    pictures = number(sum(now.states.values()), "picture")
    lines = [f"revision {now.revision}, backbone {cf.shown(now.backbone)}; {pictures}: {counts}", ""]
    lines.append(tables.plain([["class", "pictures"], *([n, f"{now.classes.get(n, 0):,}"] for n in now.names)]))
    if options.history:
        record["history"] = history
        rows = [[event["at"], str(event["revision"]), event["kind"], event["class"] or ""] for event in history]
        lines += ["", tables.plain([["when", "revision", "what", "class"], *rows])]
    tell(options, record, "\n".join(lines))
    return 0


def discover(options: DiscoverOptions) -> int:
    words = words_of(options.words)
    with opened(options) as store:
        groups = store.discover()
        found = store.discovery_
        said = cf.suggestions_for(store, groups, options.names, words)
    outliers = int((found.labels < 0).sum())
    record = {
        "unknown": len(found.labels),
        "groups": [_group(group, found, names) for group, names in zip(groups, said, strict=True)],
        "interval": list(found.interval),
        "in_no_group": outliers,
    }
    tell(options, record, _table(groups, found, said, outliers))
    return 0


def _group(group: cf.Group, found: cf.Discovery, said: cf.Suggestions | None) -> dict[str, Any]:
    return {
        "number": group.number,
        "pictures": [
            {"image": n, "digest": d} for n, d in zip(group.pictures.names, group.pictures.digests, strict=True)
        ],
        "stability": found.stability[group.number] if found.stability else None,
        "nearest": group.nearest and {"class": group.nearest[0], "cosine": group.nearest[1]},
        "names": [] if said is None else [{"name": word, "probability": p} for word, p in said.names],
        "none_fits": None if said is None else said.none_fits,
        "note": "" if said is None else said.note,
    }


def _table(
    groups: Sequence[cf.Group], found: cf.Discovery, said: Sequence[cf.Suggestions | None], outliers: int
) -> str:
    low, high = found.interval
    alone = f", {outliers:,} in no group" if outliers else ""
    head = (
        f"{number(len(found.labels), 'unknown picture')}: {number(len(groups), 'group')} (90 % [{low}, {high}]){alone}"
    )
    rows = [["group", "pictures", "stability", "nearest known class", "cosine", "might be called"]]
    for group, names in zip(groups, said, strict=True):
        nearest, cosine = group.nearest or ("-", float("nan"))
        stable = tables.fraction(found.stability[group.number]) if found.stability else "-"
        words = ", ".join(f"{word} {p:.2f}" for word, p in names.names) if names else "-"
        words = f"none of: {words}" if names and names.none_fits else words
        rows.append([str(group.number), f"{len(group):,}", stable, nearest, tables.fraction(cosine), words])
    notes = sorted({names.note for names in said if names and names.note})
    return "\n".join([head, *([tables.plain(rows)] if groups else []), *(f"note: {note}" for note in notes)])


def predict(options: PredictOptions) -> int:
    pictures = read(options.pictures)
    with opened(options) as store:
        world = store.world
    refusal = world.rejector_ and world.rejector_.refusal(world.alpha)
    opening.warn([f"no picture will be called unknown: {refusal}"] if refusal else [])
    answers = world.predict(pictures, options.top)
    tell(options, predicting.record(world, pictures, answers), predicting.table(world, pictures, answers))
    return code(pictures)
