"""Pictures into a store: judged by the newest classifier, written a batch per transaction, each once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import to_unicode
from clip_fewshot.data.squares import encode_squares
from clip_fewshot.data.thumbnail import thumbnail
from clip_fewshot.discovery.undecided import UNDECIDED
from clip_fewshot.open_world.answers import BY_PICTURES
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.store import rows, saved_classifiers
from clip_fewshot.open_world.store.database import Database
from clip_fewshot.open_world.store.material import build_verdict
from clip_fewshot.open_world.store.rows import PictureRow
from clip_fewshot.open_world.store.session import Session


class Ingested(NamedTuple):
    """What became of pictures: ``new`` = ``known`` + ``unknown``; ``seen_before`` were in the store or came twice."""

    new: int = 0
    known: int = 0
    unknown: int = 0
    seen_before: int = 0

    def add(self, more: Ingested) -> Ingested:
        """The sum."""
        return Ingested(*(a + b for a, b in zip(self, more, strict=True)))


def ingest(session: Session, pictures: ImageDataset) -> Ingested:
    """One batch: on the disk when this returns."""
    database = session.database
    there = rows.find(database, pictures.digests)
    first = {digest: i for i, digest in reversed([*enumerate(pictures.digests)]) if digest not in there}
    fresh = pictures.subset(np.array(sorted(first.values()), dtype=np.int64))
    while True:
        at, world = session.state()
        made = _rows(world, fresh, at.state)
        with database.transaction():
            if (
                saved_classifiers.find_current(database).state == at.state
            ):  # else another process has decided: judge by its classifier
                new = [made[i] for i in rows.insert(database, made, at.encoder)]
                relink(database, pictures)
                break
    unknown = sum(row.verdict.state == "unknown" for row in new)
    return Ingested(len(new), len(new) - unknown, unknown, len(pictures) - len(new))


def relink(database: Database, pictures: ImageDataset) -> int:
    """Note where pictures lie now; how many of them are in the store. Within a transaction."""
    there = rows.find(database, pictures.digests)
    places = {digest: _place(pictures, i) for i, digest in enumerate(pictures.digests) if digest in there}
    moved = [(place, there[d].seq) for d, place in places.items() if place not in (None, there[d].place)]
    rows.change_images(database, "place = ?", moved)
    return len(places)


def _rows(world: OpenWorldClassifier, pictures: ImageDataset, state: int) -> list[PictureRow]:
    if not len(pictures):
        return []
    sight = world.look(pictures)
    answers = world.judge(sight, 1)
    open_rows = [answer.known_by != BY_PICTURES or answer.p_value <= UNDECIDED for answer in answers]
    strange = np.flatnonzero(open_rows)  # may be judged again, or named with a group
    squares: dict[int, bytes] = {}
    if not world.from_features:
        made = encode_squares(pictures.subset(strange), world.model.backbone.geometry)
        squares = dict(zip(strange.tolist(), made, strict=True))
    return [
        PictureRow(
            digest=pictures.digests[i],
            name=to_unicode(pictures.names[i]),
            place=_place(pictures, i),
            verdict=build_verdict(answers[i], state),
            thumbnail=thumbnail(pictures.open(i)),
            embedding=sight.frozen[i],
            square=squares.get(i),
        )
        for i in range(len(pictures))
    ]


def _place(pictures: ImageDataset, i: int) -> str | None:
    """Where it lies; None for a picture in memory, and where SQLite has no text for the path."""
    picture = pictures.images[i]
    place = str(picture.absolute()) if isinstance(picture, Path) else ""
    return place if place and to_unicode(place) == place else None
