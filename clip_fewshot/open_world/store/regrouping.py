"""What discovery found in a store is kept there, so that the next time only what is new has to be grouped.

It follows from the rest: where it is missing, damaged or of another revision, all is grouped afresh.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from clip_fewshot.discovery import Discovery
from clip_fewshot.discovery.growing import extend_groups
from clip_fewshot.discovery.undecided import UNDECIDED, discover_undecided
from clip_fewshot.errors import UsageError
from clip_fewshot.open_world.groups import Grouped, build_grouped
from clip_fewshot.open_world.store import rows
from clip_fewshot.open_world.store.database import Database
from clip_fewshot.open_world.store.material import build_dataset
from clip_fewshot.open_world.store.rows import StoredPicture
from clip_fewshot.open_world.store.schema import row_crc
from clip_fewshot.open_world.store.session import Session
from clip_fewshot.open_world.unknown import UnknownPictures
from clip_fewshot.types import IndexArray

TABLE = "CREATE TABLE IF NOT EXISTS grouping (told TEXT NOT NULL, arrays BLOB NOT NULL, crc INTEGER NOT NULL) STRICT"
UNDECIDED_ROWS = f"FROM image WHERE (state = 'unknown' OR (state = 'known' AND p_value <= {UNDECIDED}))"
GROUPING_SCHEMA = 1  # of what is kept; another number is grouped afresh, as after a change of the method


class Kept(NamedTuple):
    """What discovery found last.

    Attributes:
        revision: of the store. last: number of the last picture. fresh: pictures that the last fresh start saw.
        seqs: (m,) numbers of the pictures that were unknown or joined a group. found: the groups among them.
    """

    revision: int
    last: int
    fresh: int
    seqs: IndexArray
    found: Discovery


def find_groups(session: Session) -> Grouped:
    """Groups among all unknown and undecided pictures: those of the last time grown, or a fresh start.

    Raises:
        UsageError: not one is unknown.
    """
    (at, world), database = session.state(), session.database
    by_name, seed = world.without_pictures, world.model.seed
    with database.snapshot():
        kept = _read(database, at.number)
        new = find_undecided(database, by_name, kept.last if kept else 0)
        if kept is not None and len(new) > kept.fresh:
            kept, new = None, find_undecided(database, by_name)
        old = [] if kept is None else rows.find_numbers(database, kept.seqs.tolist())
        judged = read_judged(session, [*old, *new])
        earlier = np.array(find_p_values(database, by_name, kept.last)) if kept else np.empty(0)
    if not judged.unknown.any():
        fix = "ingest some pictures first"
        raise UsageError(expected="unknown pictures", got="none", fix=fix, where="discover")
    X, unknown, p, reference = judged.features, judged.unknown, judged.p_values, world.reference_
    if kept is None:
        regrouped = discover_undecided(X, unknown, p, reference, seed=seed)
    else:
        regrouped = extend_groups(kept.found, X, unknown, p[len(old) :], earlier, reference, seed=seed)
    seqs = np.array([one.seq for one in [*old, *new]], dtype=np.int64)
    if kept is None or new:
        last, fresh = max(int(seqs[-1]), kept.last if kept else 0), kept.fresh if kept else len(new)
        _write(database, Kept(at.number, last, fresh, seqs[regrouped.rows], regrouped.found))
    return build_grouped(judged, regrouped, reference, world.model.label_space_)


def find_undecided(database: Database, by_name: Collection[str], after: int = 0) -> list[StoredPicture]:
    """The unknown pictures, and those that may be, but for the ones of classes that are known ``by_name`` only."""
    found = database.rows(f"SELECT {rows.IMAGE_COLUMNS} {UNDECIDED_ROWS} AND seq > ? ORDER BY seq", (after,))
    return [one for one in map(rows.parse_row, found) if one.verdict.label not in by_name]


def find_p_values(database: Database, by_name: Collection[str], last: int) -> list[float]:
    """Those of the same pictures, up to number ``last``."""
    found = database.rows(f"SELECT p_value, class {UNDECIDED_ROWS} AND seq <= ?", (last,))
    return [p for p, label in found if label not in by_name]


def read_judged(session: Session, held: Sequence[StoredPicture]) -> UnknownPictures:
    """The pictures with their embeddings and what was answered."""
    p, answered = np.array([one.verdict.p_value for one in held]), tuple(one.verdict.label for one in held)
    return UnknownPictures(build_dataset(held), session.features(held), p, answered)


def _read(database: Database, revision: int) -> Kept | None:
    """What was kept at ``revision``, if there is any to go on from."""
    there = database.value("SELECT 1 FROM sqlite_master WHERE name = 'grouping'")
    row = next(iter(database.rows("SELECT told, arrays, crc FROM grouping")), None) if there else None
    if row is None or row[2] != row_crc(*row[:2]):
        return None
    told: dict[str, Any] = json.loads(row[0])
    arrays: dict[str, Any] = safetensors.numpy.load(row[1])
    if (told["schema"], told["revision"]) != (GROUPING_SCHEMA, revision) or len(arrays["seqs"]) < 2:
        return None
    seqs = arrays.pop("seqs")
    lists = {name: tuple(value) if isinstance(value, list) else value for name, value in told["found"].items()}
    return Kept(revision, told["last"], told["fresh"], seqs, Discovery(**(arrays | lists)))


def _write(database: Database, kept: Kept) -> None:
    """Keep it, in place of what was kept before."""
    found = {field.name: getattr(kept.found, field.name) for field in fields(kept.found)}
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    told: dict[str, Any] = {
        "schema": GROUPING_SCHEMA,
        "revision": kept.revision,
        "last": kept.last,
        "fresh": kept.fresh,
    }
    told |= {"found": {name: value for name, value in found.items() if name not in arrays}}
    row = json.dumps(told), safetensors.numpy.save(arrays | {"seqs": kept.seqs})
    with database.transaction():
        database.run(TABLE)
        database.run("DELETE FROM grouping")
        database.insert("grouping", *row)
