"""What a person decides becomes a state of the classifier and a line of history, both or neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.open_world.add_class import Extension
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.groups import Group
from clip_fewshot.open_world.store import rows, saved_classifiers
from clip_fewshot.open_world.store.database import Database
from clip_fewshot.open_world.store.material import build_dataset, judge_again, open_pictures
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.open_world.store.rows import StoredPicture
from clip_fewshot.open_world.store.session import Session


class Applied(NamedTuple):
    """What a decision did: the revision it made, and a report per training. ``again``: it was there already."""

    revision: int
    reports: tuple[Extension, ...] = ()
    again: bool = False


def apply(session: Session, review: Review, token: str | None = None) -> Applied:
    """Train, judge the unknown again, and write it all down; the caller holds the lock of decisions."""
    database, (at, world) = session.database, session.state()
    number = at.number + 1
    held = _held(session, review)
    session.set_world(None, None)  # if this fails, the classifier is read again
    by_name = world.without_pictures
    reports = _learn(session, world, review, held)
    verdicts = {
        held[digest].seq: held[digest].verdict._replace(state=state, label=label, judged=number)
        for digest, state, label in _decided(review)
    }
    rest = [one for one in rows.find_open(database, by_name) if one.seq not in verdicts]
    last = max([0, *(one.seq for one in rest)])
    if reports:
        verdicts |= judge_again(database, world, rest, number)
    with database.transaction():
        if reports:
            late = [one for one in rows.find_open(database, by_name, last) if one.seq not in verdicts]
            verdicts |= judge_again(database, world, late, number)
        saved_classifiers.add_revision(database, world.to_artifact(), number, at.state, at.encoder, token)
        rows.change_verdicts(database, number, verdicts)
        _write_history(database, number, review)
    session.set_world(number, world)
    return Applied(number, reports)


def find_applied(session: Session, review: Review) -> Applied | None:
    """What a review did when it was applied before; None for one that can be applied now.

    Raises:
        ArtifactError: of another store. UsageError: of another revision.
    """
    if review.store != session.id:
        expected, got = f"a review of this store ({session.id[:12]}...)", f"one of {review.store[:12]}..."
        raise ArtifactError(expected=expected, got=got, fix="open the store that it was made from", where="review")
    done = session.database.value("SELECT number FROM revision WHERE token = ?", (review.token(),))
    if done is not None:
        return Applied(int(done), again=True)
    if review.revision != session.revision:
        fix = "make a new review: others have decided since"
        raise UsageError(
            expected=f"a review of revision {session.revision}",
            got=f"one of {review.revision}",
            fix=fix,
            where="review",
        )
    return None


def _held(session: Session, review: Review) -> dict[str, StoredPicture]:
    """The pictures of a review, which must be there and have no name yet."""
    wanted = [digest for digest, _, _ in _decided(review)]
    held = rows.find(session.database, wanted)
    missing = [digest for digest in wanted if digest not in held]
    if missing:
        got = f"{len(missing)} others, the first {missing[0][:12]}..."
        raise UsageError(expected="pictures of the store", got=got, fix="ingest them first", where="decision")
    named = [one for one in held.values() if one.verdict.state == "named"]
    if named:
        got = f"{len(named)} that have one, the first {named[0].verdict.label!r}"
        raise UsageError(
            expected="pictures without a given name", got=got, fix="undo that naming first", where="decision"
        )
    return held


def _decided(review: Review) -> Iterable[tuple[str, str, str | None]]:
    """(digest, state, class) of every picture."""
    for part in (review.assigned, review.named):
        for name, digests in part.items():
            yield from ((digest, "named", name) for digest in digests)
    yield from ((digest, "rejected", None) for digest in review.rejected)


def _learn(
    session: Session, world: OpenWorldClassifier, review: Review, held: Mapping[str, StoredPicture]
) -> tuple[Extension, ...]:
    def group(digests: Sequence[str]) -> Group:
        return _group(session, world, [held[digest] for digest in digests])

    reports = [world.assign(group(digests), name) for name, digests in review.assigned.items()]
    named = {name: group(digests) if digests else None for name, digests in review.named.items()}
    return (*reports, world.extend(named)) if named else tuple(reports)


def _group(session: Session, world: OpenWorldClassifier, held: Sequence[StoredPicture]) -> Group:
    pictures = build_dataset(held) if world.from_features else open_pictures(session.database, held)
    p = np.array([one.verdict.p_value for one in held])
    return Group(0, pictures, session.features(held), p, np.arange(len(held)), None)


def _write_history(database: Database, number: int, review: Review) -> None:
    for step in review.steps:
        saved_classifiers.add_event(database, number, str(step["kind"]), None, dict(step))
    for kind, part in (("assign", review.assigned), ("name", review.named)):
        for name, digests in part.items():
            saved_classifiers.add_event(database, number, kind, name, {"pictures": list(digests)})
    if review.rejected:
        saved_classifiers.add_event(database, number, "reject", None, {"pictures": list(review.rejected)})
