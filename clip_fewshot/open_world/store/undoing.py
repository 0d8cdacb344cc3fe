"""Take the last decision back. The classifier is read only where pictures have come since, which it must judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_fewshot.errors import UsageError
from clip_fewshot.open_world.store import rows, saved_classifiers
from clip_fewshot.open_world.store.database import Database
from clip_fewshot.open_world.store.rows import StoredPicture, Verdict
from clip_fewshot.open_world.store.saved_classifiers import Revision
from clip_fewshot.open_world.store.session import DECISIONS_LOCK, Session
from clip_fewshot.runtime.files import hold_file

if TYPE_CHECKING:
    from clip_fewshot.open_world.classifier import OpenWorldClassifier


def undo(session: Session) -> int:
    """Go back to the state before the last one, see :meth:`Store.undo`; the number of the new revision."""
    with hold_file(session.folder / DECISIONS_LOCK):
        database, at = session.database, saved_classifiers.find_current(session.database)
        if at.parent is None:
            raise UsageError(
                expected="a decision to take back",
                got="none: the store is as it was made, or as it was after a new embedding",
                fix="leave it as it is",
                where="undo",
            )
        saved_classifiers.read_artifact(database, at.parent)  # a damaged one is nothing to go back to
        late = _came_since(database, at)
        world = session.read_world(at.parent, session.world.model.backbone) if late else None
        number = at.number + 1
        with database.transaction():
            late = _came_since(database, at)  # again: others may have stored some meanwhile
            if late and world is None:
                world = session.read_world(at.parent, session.world.model.backbone)
            verdicts = rows.find_changed(database, at.state)
            verdicts |= _judge_late(database, world, late, at.parent) if world is not None else {}
            meta = (number, at.parent, None, at.encoder, "{}", None, saved_classifiers.format_now())
            database.insert("revision", *meta)
            rows.change_verdicts(database, number, verdicts)
            saved_classifiers.add_event(database, number, "undo", None, {"state": at.state, "back_to": at.parent})
        session.set_world(at.parent, world)
    return number


def _came_since(database: Database, at: Revision) -> list[StoredPicture]:
    """The pictures that only the state being undone has judged."""
    asked = (
        f"SELECT {rows.IMAGE_COLUMNS} FROM image WHERE judged = ?1 "
        "AND seq NOT IN (SELECT seq FROM change WHERE revision = ?1)"
    )
    return [rows.parse_row(row) for row in database.rows(asked, (at.state,))]


def _judge_late(
    database: Database, world: OpenWorldClassifier, held: list[StoredPicture], state: int
) -> dict[int, Verdict]:
    """What ``world``, the classifier of ``state``, says of them.

    Known ones of which nothing is kept but features that ``world`` cannot use stay as they are, or become unknown where
    their class goes.
    """
    from clip_fewshot.open_world.store.material import judge_again

    verdicts = judge_again(database, world, held, state)
    for one in held:
        if one.seq not in verdicts:
            gone = one.verdict.label not in world.model.label_space_.names
            verdict = one.verdict._replace(state="unknown", label=None) if gone else one.verdict
            verdicts[one.seq] = verdict._replace(judged=state)
    return verdicts
