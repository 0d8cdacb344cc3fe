"""What a person decided over the groups of a store, as it comes back from the review page."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.errors import ClipFewShotError, DataError, UsageError
from clip_fewshot.open_world.groups import Group
from clip_fewshot.runtime.files import hash_bytes
from clip_fewshot.runtime.reading import decode_json, read_whole

REVIEW_SCHEMA, UNSUMMED = 2, 1  # reviews of the first schema have no checksum
REVIEW_SUM = "crc32"
REVIEW_STEPS = ("merge", "split", "move")


@dataclass(frozen=True)
class Review:
    """Decisions over pictures, by digest.

    Attributes:
        store: identity of the store it was made from. revision: of the store then.
        named: name of a new class -> its pictures; none: it is known by its name only.
        assigned: name of a class that is there -> pictures that join it.
        rejected: pictures that are shown no more.
        steps: how the groups came about, {"kind": "merge" | "split" | "move", ...}: kept in the history, nothing else.
    """

    store: str
    revision: int
    named: Mapping[str, tuple[str, ...]]
    assigned: Mapping[str, tuple[str, ...]]
    rejected: tuple[str, ...]
    steps: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        pictures = [d for part in (*self.named.values(), *self.assigned.values(), self.rejected) for d in part]
        if len(set(pictures)) < len(pictures):
            raise UsageError(
                expected="one decision per picture", got="several for one", fix="decide for one of them", where="review"
            )
        if not pictures and not self.named:
            raise UsageError(expected="a decision", got="none", fix="name, assign or reject something", where="review")

    def to_json(self) -> dict[str, Any]:
        """The review as JSON.

        ``{"schema": 2, "store": ..., "revision": 3, "groups": [{"name": "axolotl", "existing": false,
        "pictures": [digest, ...]}, ...], "rejected": [digest, ...], "steps": [...], "crc32": ...}``. The checksum is of
        all else as JSON in ASCII, without blanks and with sorted keys; one that is written by hand says schema 1.
        """
        record = self._decisions() | {"schema": REVIEW_SCHEMA}
        return record | {REVIEW_SUM: _checksum(record)}

    def _decisions(self) -> dict[str, Any]:
        groups = [
            {"name": name, "existing": existing, "pictures": list(pictures)}
            for existing, part in ((False, self.named), (True, self.assigned))
            for name, pictures in part.items()
        ]
        record = {"schema": UNSUMMED, "store": self.store, "revision": self.revision, "groups": groups}
        return record | {"rejected": list(self.rejected), "steps": [dict(step) for step in self.steps]}

    @classmethod
    def from_json(cls, record: Any, where: str = "review") -> Review:
        """The inverse of :meth:`to_json`.

        Raises:
            DataError: not a review. UsageError: a picture in two groups, or no decision at all.
        """
        try:
            if record["schema"] not in (UNSUMMED, REVIEW_SCHEMA):
                raise DataError(
                    expected=f"schema {REVIEW_SCHEMA}",
                    got=f"schema {record['schema']}",
                    fix="make the review again",
                    where=where,
                )
            summed = record["schema"] == REVIEW_SCHEMA or REVIEW_SUM in record
            if summed and record.get(REVIEW_SUM) != _checksum(record):
                fix = "save it again; to write one by hand, say schema 1 and leave crc32 out"
                raise DataError(expected="a review as it was saved", got="a changed one", fix=fix, where=where)
            parts: tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]] = ({}, {})
            for group in record["groups"]:
                part = parts[bool(group.get("existing", False))]
                part[str(group["name"])] = part.get(str(group["name"]), ()) + _digests(group["pictures"])
            steps = tuple(dict(step) for step in record.get("steps", []))
            if not all(step.get("kind") in REVIEW_STEPS for step in steps):
                raise DataError(
                    expected=f"steps out of {REVIEW_STEPS}", got="another one", fix="make the review again", where=where
                )
            rejected = _digests(record.get("rejected", []))
            return cls(str(record["store"]), int(record["revision"]), *parts, rejected, steps)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, (DataError, UsageError)):
                raise
            got = f"{type(error).__name__}: {error}"
            raise DataError(expected="a review saved by the page", got=got, fix="make it again", where=where) from error

    @classmethod
    def read(cls, path: str | Path) -> Review:
        """From the file that the page saved."""
        try:
            return cls.from_json(decode_json(read_whole(path)), str(path))
        except OSError as error:
            got = error.strerror or str(error)
            raise DataError(expected="a saved review", got=got, fix="check the path", where=str(path)) from error
        except ClipFewShotError:
            raise
        except ValueError as error:  # most often the page itself
            fix = "open the page in a browser, press Save review, and give the review.json that it saves"
            raise DataError(expected="saved decisions", got="no JSON", fix=fix, where=str(path)) from error

    def token(self) -> str:
        """The same for the same decisions: applied twice, a review is applied once."""
        return hash_bytes(json.dumps(self._decisions(), sort_keys=True).encode())


def _checksum(record: Mapping[str, Any]) -> int:
    said = {name: value for name, value in record.items() if name != REVIEW_SUM}
    return zlib.crc32(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())


def _digests(values: Any) -> tuple[str, ...]:
    digests = tuple(values)
    if any(not isinstance(d, str) or len(bytes.fromhex(d)) != 32 for d in digests):
        raise ValueError("a digest that is none")
    return digests


def list_digests(pictures: Group | ImageDataset | Sequence[str]) -> tuple[str, ...]:
    """Digests of pictures, each once."""
    if isinstance(pictures, str):
        raise UsageError(
            expected="a group, or a list of digests", got="one text", fix="write [digest]", where="pictures"
        )
    given = pictures.pictures if isinstance(pictures, Group) else pictures
    return tuple(dict.fromkeys(given.digests if isinstance(given, ImageDataset) else given))
