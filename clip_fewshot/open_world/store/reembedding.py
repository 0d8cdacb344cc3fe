"""Another backbone for a store: every picture is embedded again beside the old embeddings, then all change at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import escape, list_first
from clip_fewshot.data.squares import encode_squares
from clip_fewshot.errors import DataError
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.groups import Group
from clip_fewshot.open_world.store import queries, rows, saved_classifiers
from clip_fewshot.open_world.store.database import Database
from clip_fewshot.open_world.store.material import SQUARES_AT_A_TIME, build_dataset, build_verdict, is_there
from clip_fewshot.open_world.store.rows import StoredPicture, Verdict
from clip_fewshot.open_world.store.schema import EMBEDDING_TABLE
from clip_fewshot.open_world.store.session import Session

NEXT = "embedding_next"
TO_EMBED = f"SELECT {rows.IMAGE_COLUMNS} FROM image WHERE seq NOT IN (SELECT seq FROM {NEXT}) ORDER BY seq"
SELECT_NAMED = f"SELECT {rows.IMAGE_COLUMNS} FROM image WHERE state = 'named' ORDER BY seq"


@dataclass
class Sources:
    """Where the pictures themselves are: among those handed over, or where they were last seen."""

    given: ImageDataset | None
    _row: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.given is not None:
            self._row = {digest: i for i, digest in enumerate(self.given.digests)}

    def has(self, one: StoredPicture) -> bool:
        """Whether it can be opened."""
        return one.digest in self._row or is_there(one)

    def pictures(self, held: Sequence[StoredPicture]) -> ImageDataset:
        """Those of ``held``, each of which must be there."""
        parts = []
        for one in held:
            row = self._row.get(one.digest)
            found = build_dataset([one]) if self.given is None or row is None else self.given.subset(np.array([row]))
            parts.append(found)
        return join_images(parts)


@dataclass
class NewVerdicts:
    """What the new classifier says: verdicts of known and unknown pictures, squares of unknown ones."""

    verdicts: dict[int, Verdict] = field(default_factory=dict)
    squares: dict[int, bytes] = field(default_factory=dict)


def reembed(session: Session, world: OpenWorldClassifier, given: ImageDataset | None) -> int:
    """See :meth:`Store.reembed`; the caller holds the lock of decisions."""
    database, at = session.database, saved_classifiers.find_current(session.database)
    encoder, sources, new = _begin(database, world), Sources(given), NewVerdicts()
    number = at.number + 1
    _embed(database, world, encoder, sources)
    _name_again(database, world, encoder, sources)
    while True:
        _judge(database, world, encoder, number, sources, new)
        with database.transaction():
            judged = database.value("SELECT count(*) FROM image WHERE state IN ('known', 'unknown')")
            if judged == len(new.verdicts) and not database.rows(f"{TO_EMBED} LIMIT 1"):
                _change_over(database, world, number, encoder, new)
                break
        _embed(database, world, encoder, sources)  # pictures have come meanwhile
    session.set_world(number, world)
    return number


def _begin(database: Database, world: OpenWorldClassifier) -> int:
    """A table for the new embeddings, or the one that a killed run left. The number of the encoder."""
    with database.transaction():
        encoder = saved_classifiers.find_encoder(database, world.model.backbone)
        begun = database.value("SELECT 1 FROM sqlite_master WHERE name = ?", (NEXT,))
        if begun and database.value(f"SELECT 1 FROM {NEXT} WHERE encoder <> ? LIMIT 1", (encoder,)):
            database.run(f"DROP TABLE {NEXT}")  # begun for yet another backbone
            begun = None
        if not begun:
            database.run(EMBEDDING_TABLE.format(table=NEXT))
    return encoder


def _embed(database: Database, world: OpenWorldClassifier, encoder: int, sources: Sources) -> None:
    """Embed what is missing, a batch per transaction; what has no file is left and refused at the end."""
    missing = [rows.parse_row(row) for row in database.rows(TO_EMBED)]
    lost = []
    for start in range(0, len(missing), SQUARES_AT_A_TIME):
        part = missing[start : start + SQUARES_AT_A_TIME]
        there = [one for one in part if sources.has(one)]
        lost += [escape(one.place or one.name) for one in part if one not in there]
        if not there:
            continue
        features = world.look(sources.pictures(there)).frozen
        with database.transaction():
            for one, values in zip(there, features, strict=True):
                rows.put_embedding(database, NEXT, one.seq, encoder, values)
    if lost:
        fix = "pass `images` with the folder that holds them now, and run again"
        raise DataError(
            expected="files of all pictures", got=f"{len(lost)} not found{list_first(lost)}\n", fix=fix, where="reembed"
        )


def _name_again(database: Database, world: OpenWorldClassifier, encoder: int, sources: Sources) -> None:
    """The classes that were named and that ``world`` does not know, in the order in which they came."""
    classes: dict[str, list[StoredPicture]] = {}
    for row in database.rows(SELECT_NAMED):
        one = rows.parse_row(row)
        if one.verdict.label is not None and one.verdict.label not in world.model.label_space_.names:
            classes.setdefault(one.verdict.label, []).append(one)
    groups: dict[str, Group | None] = {}
    for name, held in classes.items():
        features = rows.read_embeddings(database, [one.seq for one in held], encoder, str(database.path), NEXT)
        p = np.array([one.verdict.p_value for one in held])
        pictures = build_dataset(held) if world.from_features else sources.pictures(held)
        groups[name] = Group(0, pictures, features, p, np.arange(len(held)), None)
    by_name = {*queries.read_status(database).names} - {*classes, *world.model.label_space_.names}
    if groups or by_name:
        world.extend(groups | dict.fromkeys(sorted(by_name)))


def _judge(
    database: Database, world: OpenWorldClassifier, encoder: int, number: int, sources: Sources, new: NewVerdicts
) -> None:
    """What the new classifier says of the pictures that it has not judged yet."""
    held = rows.find_unnamed(database, max(new.verdicts, default=0))
    for start in range(0, len(held), SQUARES_AT_A_TIME):
        part = held[start : start + SQUARES_AT_A_TIME]
        if world.from_features:
            seqs = [one.seq for one in part]
            sight = world.look_at_features(rows.read_embeddings(database, seqs, encoder, str(database.path), NEXT))
        else:
            sight = world.look(sources.pictures(part))
        verdicts = [build_verdict(answer, number) for answer in world.judge(sight, 1)]
        new.verdicts |= {one.seq: verdict for one, verdict in zip(part, verdicts, strict=True)}
        strange = [one for one, verdict in zip(part, verdicts, strict=True) if verdict.state == "unknown"]
        if strange and not world.from_features:
            made = encode_squares(sources.pictures(strange), world.model.backbone.geometry)
            new.squares |= {one.seq: square for one, square in zip(strange, made, strict=True)}


def _change_over(database: Database, world: OpenWorldClassifier, number: int, encoder: int, new: NewVerdicts) -> None:
    saved_classifiers.add_revision(database, world.to_artifact(), number, None, encoder)
    database.run("UPDATE image SET judged = ?", (number,))
    database.run(rows.SEAL_IMAGES)
    rows.write_verdicts(database, new.verdicts)
    database.run("DELETE FROM square")
    for seq, square in new.squares.items():
        database.insert("square", seq, square)
    database.run("DROP TABLE embedding")
    database.run(f"ALTER TABLE {NEXT} RENAME TO embedding")
    saved_classifiers.add_event(database, number, "embed", None, {"backbone": world.model.backbone.name})
