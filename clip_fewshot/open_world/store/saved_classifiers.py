"""The classifier inside a store: its files by content, so that what a naming leaves as it was is stored once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from clip_fewshot.errors import ArtifactError
from clip_fewshot.open_world.store.database import Database
from clip_fewshot.runtime.files import hash_bytes

if TYPE_CHECKING:
    from clip_fewshot.backbones.backbone import Backbone


class Revision(NamedTuple):
    """Where a store stands.

    Attributes:
        number: how many decisions were taken, undone ones and undos among them.
        state: the revision whose classifier holds. parent: the one before that state, or None.
        encoder: number of the encoder whose embeddings it goes with.
    """

    number: int
    state: int
    parent: int | None
    encoder: int


def format_now() -> str:
    """For people only: no decision depends on a clock."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def find_current(database: Database) -> Revision:
    """The newest revision, with the parent of the state that it stands for."""
    asked = (
        "SELECT now.number, now.state, held.parent, now.encoder FROM revision AS now "
        "JOIN revision AS held ON held.number = now.state ORDER BY now.number DESC LIMIT 1"
    )
    return Revision(*database.rows(asked)[0])


def add_revision(
    database: Database,
    artifact: tuple[Mapping[str, bytes], Mapping[str, Any]],
    number: int,
    parent: int | None,
    encoder: int,
    token: str | None = None,
) -> None:
    """Write a state of the classifier, as files and JSON."""
    files, meta = artifact
    database.insert("revision", number, number, parent, encoder, json.dumps(meta), token, format_now())
    for name, data in files.items():
        digest = hash_bytes(data)
        database.run("INSERT OR IGNORE INTO content VALUES (?, ?)", (digest, data))
        database.insert("model_file", number, name, digest)


def read_artifact(database: Database, state: int) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The classifier of a state, as files and JSON.

    Raises:
        ArtifactError: a damaged file.
    """
    meta = json.loads(database.value("SELECT meta FROM revision WHERE number = ?", (state,)))
    files: dict[str, bytes] = {}
    asked = "SELECT file, sha256, data FROM model_file JOIN content USING (sha256) WHERE state = ?"
    for name, digest, data in database.rows(asked, (state,)):
        if hash_bytes(data) != digest:
            fix = "restore the store from a copy"
            raise ArtifactError(
                expected=f"SHA-256 {digest[:12]}...", got="other content", fix=fix, where=f"{database.path}: {name}"
            )
        files[name] = data
    return files, meta


def describe_encoder(database: Database, number: int) -> tuple[str, str]:
    """(name, digest) of a backbone."""
    name, digest = database.rows("SELECT name, digest FROM encoder WHERE number = ?", (number,))[0]
    return str(name), str(digest)


def check_backbone(database: Database, backbone: Backbone | None) -> None:
    """Raise ArtifactError where another backbone is given than the one that the embeddings are of."""
    name, digest = describe_encoder(database, find_current(database).encoder)
    if backbone is not None and backbone.digest != digest:
        expected, got = f"backbone {name} {digest[:12]}...", f"{backbone.name} {backbone.digest[:12]}..."
        fix = "open it with the one it was made with; reembed() changes it"
        raise ArtifactError(expected=expected, got=got, fix=fix, where=str(database.path.parent))


def find_encoder(database: Database, backbone: Backbone) -> int:
    """The number of a backbone, which is given one if it has none."""
    asked = "SELECT number FROM encoder WHERE digest = ?"
    if database.value(asked, (backbone.digest,)) is None:
        database.insert("encoder", database.next_number("encoder"), backbone.name, backbone.digest)
    return int(database.value(asked, (backbone.digest,)))


def add_event(database: Database, revision: int, kind: str, label: str | None, detail: Any) -> None:
    """Write history."""
    number = database.next_number("event")
    database.insert("event", number, revision, kind, label, json.dumps(detail), format_now())


def list_shown(database: Database) -> frozenset[str]:
    """Digests of all pictures on which a class was ever named."""
    details = database.rows("SELECT detail FROM event WHERE kind IN ('name', 'assign')")
    return frozenset(digest for (detail,) in details for digest in json.loads(detail)["pictures"])
