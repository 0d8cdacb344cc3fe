"""Labels that another tool has changed, as the decisions that they are."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from clip_fewshot.data.decided_labels import holds_labels, read_decided_labels
from clip_fewshot.data.json_labels import LINES
from clip_fewshot.data.names import NO_CLASS, folder_name
from clip_fewshot.data.tables import TABLE_SUFFIXES
from clip_fewshot.open_world.store import queries, rows
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.open_world.store.session import Session
from clip_fewshot.runtime.reading import decode_json, read_whole

NO_GROUP, REJECTED = "ungrouped", "rejected"  # "unknown" is refused as the name of a class
GROUP_PREFIX = "group-"  # before the number of a group


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
        if label in ("", NO_GROUP, NO_CLASS) or (re.fullmatch(rf"{GROUP_PREFIX}\d+", label) and label not in known):
            continue
        if one is not None and one.verdict.label == label:
            continue
        if label == REJECTED and label not in known:
            rejected.append(digest)
        else:
            (assigned if label in known else named)[label].append(digest)
    new, joined = ({name: tuple(part) for name, part in parts.items()} for parts in (named, assigned))
    return Review(session.id, session.revision, new, joined, tuple(rejected))
