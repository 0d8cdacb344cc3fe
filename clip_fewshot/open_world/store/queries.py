"""Questions to a store that need no classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from clip_fewshot.open_world.store import rows, saved_classifiers
from clip_fewshot.open_world.store.database import Database
from clip_fewshot.open_world.store.schema import SUMMED

CHECKED_AT_A_TIME = 4096  # embeddings read at a time
EVENT = ("number", "revision", "kind", "class", "detail", "at")


class Status(NamedTuple):
    """Where a store stands. ``states`` and ``classes`` count pictures; ``names`` are all classes of the model."""

    revision: int
    backbone: str
    names: tuple[str, ...]
    states: Mapping[str, int]
    classes: Mapping[str, int]


def read_status(database: Database) -> Status:
    """See :meth:`Store.status`."""
    with database.snapshot():
        at = saved_classifiers.find_current(database)
        counts = database.rows("SELECT state, class, count(*) FROM image GROUP BY state, class")
        name = saved_classifiers.describe_encoder(database, at.encoder)[0]
        meta = json.loads(database.value("SELECT meta FROM revision WHERE number = ?", (at.state,)))
    states = dict.fromkeys(("known", "unknown", "named", "rejected"), 0)
    classes: dict[str, int] = {}
    for state, label, count in counts:
        states[state] += count
        if label is not None:
            classes[label] = classes.get(label, 0) + count
    return Status(at.number, name, tuple(meta["classes"]), states, classes)


def read_history(database: Database) -> list[dict[str, Any]]:
    """See :meth:`Store.history`."""
    found = database.rows(f"SELECT {', '.join(EVENT)} FROM event ORDER BY number")
    events = [dict(zip(EVENT, row, strict=True)) for row in found]
    return [event | {"detail": json.loads(event["detail"])} for event in events]


def check(database: Database) -> None:
    """Let SQLite compare all tables with their indices, and read every row and file against its checksum.

    Raises:
        ArtifactError: damage.
    """
    database.refuse_damage()
    database.check_rows(SUMMED)
    for (state,) in database.rows("SELECT DISTINCT state FROM model_file"):
        saved_classifiers.read_artifact(database, state)
    seqs = [row[0] for row in database.rows("SELECT seq FROM image ORDER BY seq")]
    encoder = saved_classifiers.find_current(database).encoder
    for start in range(0, len(seqs), CHECKED_AT_A_TIME):
        rows.read_embeddings(database, seqs[start : start + CHECKED_AT_A_TIME], encoder, str(database.path))
