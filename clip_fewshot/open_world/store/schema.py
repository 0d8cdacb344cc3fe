"""The tables of a store, and how to tell a store of ours from other files."""

from __future__ import annotations

APPLICATION = 0x434C4653  # "CLFS", in the file's header
STORE_SCHEMA = 1
PAGE = 16384  # bytes; seven 512-dimensional embeddings fit, 4096 would hold one and waste half

TABLES = """
CREATE TABLE identity (id TEXT NOT NULL) STRICT;

CREATE TABLE encoder (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE
) STRICT;

-- A state of the classifier. `state` is the revision whose classifier holds: its own number, or what an undo restored.
CREATE TABLE revision (
    number INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    parent INTEGER,
    encoder INTEGER NOT NULL REFERENCES encoder,
    meta TEXT NOT NULL,
    token TEXT UNIQUE,
    at TEXT NOT NULL
) STRICT;

CREATE TABLE content (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;

CREATE TABLE model_file (
    state INTEGER NOT NULL REFERENCES revision,
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL REFERENCES content,
    PRIMARY KEY (state, file)
) STRICT, WITHOUT ROWID;

CREATE TABLE image (
    seq INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    name TEXT NOT NULL,
    place TEXT,
    state TEXT NOT NULL CHECK (state IN ('known', 'unknown', 'named', 'rejected')),
    class TEXT,
    p_value REAL NOT NULL,
    score REAL NOT NULL,
    judged INTEGER NOT NULL REFERENCES revision,
    CHECK ((class IS NOT NULL) = (state IN ('known', 'named')))
) STRICT;
CREATE INDEX image_state ON image (state, class);
CREATE INDEX image_unknown ON image (seq) WHERE state = 'unknown';

CREATE TABLE thumbnail (seq INTEGER PRIMARY KEY REFERENCES image, data BLOB NOT NULL) STRICT;
CREATE TABLE square (seq INTEGER PRIMARY KEY REFERENCES image, data BLOB NOT NULL) STRICT;

CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL REFERENCES revision,
    kind TEXT NOT NULL CHECK (
        kind IN ('create', 'name', 'assign', 'merge', 'split', 'move', 'reject', 'undo', 'embed')
    ),
    class TEXT,
    detail TEXT NOT NULL,
    at TEXT NOT NULL
) STRICT;

-- What a revision did to an image: its state before, for the undo.
CREATE TABLE change (
    revision INTEGER NOT NULL REFERENCES revision,
    seq INTEGER NOT NULL REFERENCES image,
    state TEXT NOT NULL,
    class TEXT,
    p_value REAL NOT NULL,
    score REAL NOT NULL,
    judged INTEGER NOT NULL,
    PRIMARY KEY (revision, seq)
) STRICT, WITHOUT ROWID;
"""

EMBEDDING_TABLE = """
CREATE TABLE {table} (
    seq INTEGER PRIMARY KEY REFERENCES image,
    encoder INTEGER NOT NULL REFERENCES encoder,
    data BLOB NOT NULL,
    crc INTEGER NOT NULL
) STRICT;
"""

APPEND_ONLY = ("event", "change", "revision", "content", "model_file")

FOREVER = """
CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""


def list_statements() -> list[str]:
    """All that makes an empty file a store."""
    guards = [FOREVER.format(table=table, verb=verb) for table in APPEND_ONLY for verb in ("UPDATE", "DELETE")]
    tables = [part for part in TABLES.split(";\n") if part.strip()]
    return [*tables, EMBEDDING_TABLE.format(table="embedding"), *guards]
