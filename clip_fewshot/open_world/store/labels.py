"""The pictures of a store with a label each, for tools that show and change labels; and what comes back as a review."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clip_fewshot.data.decided_labels import holds_labels, read_decided_labels
from clip_fewshot.data.json_labels import LINES
from clip_fewshot.data.names import NO_CLASS, folder_name
from clip_fewshot.data.tables import TABLE_SUFFIXES
from clip_fewshot.open_world.store import queries, rows
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.open_world.store.rows import StoredPicture
from clip_fewshot.open_world.store.session import Session
from clip_fewshot.runtime.reading import decode_json, read_whole

if TYPE_CHECKING:
    from clip_fewshot.open_world.store.store import Store

NO_GROUP, REJECTED = "ungrouped", "rejected"  # "unknown" is refused as the name of a class
GROUP = re.compile(r"group-\d+")


class Labelled(NamedTuple):
    """One picture, and its label: its class, "group-0" and so on for the groups, or "ungrouped"."""

    picture: StoredPicture
    label: str


def label_pictures(store: Store, everything: bool = False) -> list[Labelled]:
    """The pictures of the groups of :meth:`Store.discover`, and the unknown ones in none, in the order of their coming.

    Args:
        everything: those of known and named classes too, under their class.
    """
    database = store.database
    groups = () if everything and not rows.find_unknown(database) else store.discover()
    grouped = {digest: f"group-{group.number}" for group in groups for digest in group.pictures.digests}
    return [
        Labelled(one, grouped.get(one.digest) or one.verdict.label or NO_GROUP)
        for one in rows.find_shown(database)
        if everything or one.digest in grouped or one.verdict.state == "unknown"
    ]


def read_review(session: Session, source: Path) -> Review:
    """What the review page saved; or what labels say that another tool has changed, see :func:`review_labels`."""
    return review_labels(session, read_decided_labels(source)) if _is_labels(source) else Review.read(source)


def _is_labels(source: Path) -> bool:
    if source.is_dir() or source.suffix.lower() in (*TABLE_SUFFIXES, *LINES):
        return True
    try:
        return holds_labels(decode_json(read_whole(source)))
    except (OSError, ValueError):
        return False


def review_labels(session: Session, labels: Mapping[str, str]) -> Review:
    """What is decided by these labels, digest -> class.

    A label that is still "group-3", "ungrouped", "unknown", empty, or what is held of the picture anyway decides
    nothing; "rejected" rejects; a class that is there gets the picture; any other label is a new class.

    Raises:
        UsageError: nothing is decided.
    """
    known = queries.read_status(session.database).names
    names = {folder_name(name): name for name in known}  # a folder may be called otherwise than its class
    held = rows.find(session.database, labels)
    named, assigned, rejected = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list), list[str]()
    for digest, said in labels.items():
        label, one = names.get(said, said), held.get(digest)
        if label in ("", NO_GROUP, NO_CLASS) or (GROUP.fullmatch(label) and label not in known):
            continue
        if one is not None and one.verdict.label == label:
            continue
        if label == REJECTED and label not in known:
            rejected.append(digest)
        else:
            (assigned if label in known else named)[label].append(digest)
    decided = [{name: tuple(part) for name, part in parts.items()} for parts in (named, assigned)]
    return Review(session.id, session.revision, *decided, tuple(rejected))
