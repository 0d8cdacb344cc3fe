"""The tables of a store, and how to tell a store of ours from other files."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

APPLICATION = 0x434C4653  # "CLFS", in the file's header
STORE_SCHEMA = 3
WITHOUT_WATCH = 2  # the schema whose watch lies beside the store, in a file
WITHOUT_SUMS = 1  # the schema whose rows, but for embeddings, have no checksum
PAGE = 16384  # bytes; seven 512-dimensional embeddings fit, 4096 would hold one and waste half

# The last column of a row: the checksum of the others, see :func:`row_crc`. A content has its SHA-256, and the rows of
# an embedding table one of their data.
CRC = "crc INTEGER NOT NULL"

TABLES = """
CREATE TABLE identity (id TEXT NOT NULL, {crc}) STRICT;

CREATE TABLE encoder (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    {crc}
) STRICT;

-- A state of the classifier. `state` is the revision whose classifier holds: its own number, or what an undo restored.
CREATE TABLE revision (
    number INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    parent INTEGER,
    encoder INTEGER NOT NULL REFERENCES encoder,
    meta TEXT NOT NULL,
    token TEXT UNIQUE,
    at TEXT NOT NULL,
    {crc}
) STRICT;

CREATE TABLE content (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT;

CREATE TABLE model_file (
    state INTEGER NOT NULL REFERENCES revision,
    file TEXT NOT NULL,
    sha256 TEXT NOT NULL REFERENCES content,
    {crc},
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
    {crc},
    CHECK ((class IS NOT NULL) = (state IN ('known', 'named')))
) STRICT;
CREATE INDEX image_state ON image (state, class);
CREATE INDEX image_unknown ON image (seq) WHERE state = 'unknown';

CREATE TABLE thumbnail (seq INTEGER PRIMARY KEY REFERENCES image, data BLOB NOT NULL, {crc}) STRICT;
CREATE TABLE square (seq INTEGER PRIMARY KEY REFERENCES image, data BLOB NOT NULL, {crc}) STRICT;

CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    revision INTEGER NOT NULL REFERENCES revision,
    kind TEXT NOT NULL CHECK (
        kind IN ('create', 'name', 'assign', 'merge', 'split', 'move', 'reject', 'undo', 'embed')
    ),
    class TEXT,
    detail TEXT NOT NULL,
    at TEXT NOT NULL,
    {crc}
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
    {crc},
    PRIMARY KEY (revision, seq)
) STRICT, WITHOUT ROWID;
"""

# Where the one watch over a store stands: what is known and the store's last picture, when it began and now; pictures
# seen; the bets. The scores among which pictures are ranked, float64, a row for each time that some were added.
WATCH_TABLES = """
CREATE TABLE watch (
    known TEXT NOT NULL,
    begun INTEGER NOT NULL,
    last INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    bets TEXT NOT NULL,
    {crc}
) STRICT;

CREATE TABLE watched (part INTEGER PRIMARY KEY, scores BLOB NOT NULL, {crc}) STRICT;
"""

EMBEDDING_TABLE = """
CREATE TABLE {table} (
    seq INTEGER PRIMARY KEY REFERENCES image,
    encoder INTEGER NOT NULL REFERENCES encoder,
    data BLOB NOT NULL,
    crc INTEGER NOT NULL
) STRICT;
"""

WATCHING = ("watch", "watched")
BEFORE_WATCH = ("identity", "encoder", "revision", "model_file", "image", "thumbnail", "square", "event", "change")
SUMMED = (*BEFORE_WATCH, *WATCHING)
APPEND_ONLY = ("event", "change", "revision", "content", "model_file")

VERBS = ("UPDATE", "DELETE")

FOREVER = """
CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""


def row_crc(*values: Any) -> int:
    """CRC-32 of what a row says, of all columns but the last."""
    said = [zlib.crc32(v) if isinstance(v, bytes) else float(v) if isinstance(v, int | float) else v for v in values]
    return zlib.crc32(ascii(said).encode())


def list_statements() -> list[str]:
    """All that makes an empty file a store."""
    tables = [*_split(TABLES), *list_watch_tables()]
    return [*tables, EMBEDDING_TABLE.format(table="embedding"), *_guards()]


def list_watch_tables() -> list[str]:
    """What a store of before keeps its watch in."""
    return _split(WATCH_TABLES)


def _split(tables: str) -> list[str]:
    return [part for part in tables.format(crc=CRC).split(";\n") if part.strip()]


def list_upgrades(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """All that gives the rows of a store without sums theirs; ``columns``: those of each table."""
    freed = [f"DROP TRIGGER {table}_{verb}" for table in APPEND_ONLY for verb in VERBS]
    wider = [f"ALTER TABLE {table} ADD COLUMN {CRC} DEFAULT 0" for table in BEFORE_WATCH]
    filled = [f"UPDATE {table} SET crc = row_crc({', '.join(columns[table])})" for table in BEFORE_WATCH]
    return [*freed, *wider, *filled, *_guards()]


def _guards() -> list[str]:
    return [FOREVER.format(table=table, verb=verb) for table in APPEND_ONLY for verb in VERBS]
