"""One connection to the SQLite file of a store: transactions, and errors in this library's words.

Every other durable write of the library goes through :mod:`clip_fewshot.runtime.files`. SQLite is the one exception: it
writes its own file, in WAL mode with a full sync at every commit, so that what was acknowledged survives a kill and a
power cut, readers see the state before or after a transaction, and neither waits for the other.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_fewshot.errors import ArtifactError, ResourceError, UsageError
from clip_fewshot.open_world.store.schema import (
    APPLICATION,
    BEFORE_WATCH,
    PAGE,
    STORE_SCHEMA,
    WITHOUT_SUMS,
    WITHOUT_WATCH,
    list_statements,
    list_upgrades,
    list_watch_tables,
    row_crc,
)

DATABASE_FILE = "store.sqlite3"
BUSY_TIMEOUT = 60.0  # seconds to wait for another process's transaction
OLDEST = (3, 37, 0)  # STRICT tables
LACKING = ("locked", "busy", "disk is full", "readonly", "read-only", "unable to open", "disk i/o error")
DAMAGED = ("malformed", "not a database", "corrupt", "no such table", "no such column", "file is encrypted", "decode")


class Database:
    """Open ``folder``'s store.

    Args:
        fresh: make it, in a new or empty folder.

    Raises:
        ArtifactError: no store, a newer one, or a damaged one.
        ResourceError: a folder that cannot be used, or an SQLite without strict tables.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        if sqlite3.sqlite_version_info < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            fix = "use a Python with a newer one"
            raise ResourceError(
                expected=f"SQLite {wanted} or newer", got=sqlite3.sqlite_version, fix=fix, where="sqlite3"
            )
        self.path = folder / DATABASE_FILE
        if not fresh and not os.path.isfile(self.path):
            raise ArtifactError(
                expected="a folder with a store",
                got=f"no {DATABASE_FILE} in it",
                fix="check the path, or create one",
                where=str(folder),
            )
        with self._explained():
            mode = "rwc" if fresh else "rw"
            address = f"{self.path.resolve().as_uri()}?mode={mode}"
            self._connection = sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
            try:
                self._prepare(fresh)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, fresh: bool) -> None:
        self._connection.create_function("row_crc", -1, row_crc, deterministic=True)
        schema = STORE_SCHEMA
        if fresh:
            self._connection.execute(f"PRAGMA page_size = {PAGE}")
        else:
            schema = self._check_kind()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
            self._connection.execute(f"PRAGMA {pragma}")
        if schema != STORE_SCHEMA:
            self._upgrade()

    def _upgrade(self) -> None:
        """Give a store of an earlier release its checksums and tables, all or none: what is sound then stays so."""
        self.refuse_damage()
        with self.transaction():
            statements = list[str]()
            schema = self.value("PRAGMA user_version")  # again: another process may have been faster
            if schema == WITHOUT_SUMS:
                statements += list_upgrades({table: self._columns(table) for table in BEFORE_WATCH})
            if schema != STORE_SCHEMA:
                statements += list_watch_tables()
            for statement in (*statements, f"PRAGMA user_version = {STORE_SCHEMA}"):
                self._connection.execute(statement)

    def _columns(self, table: str) -> list[str]:
        return [row[1] for row in self.rows(f"PRAGMA table_info({table})")]

    def _check_kind(self) -> int:
        application, schema = (self.value(f"PRAGMA {name}") for name in ("application_id", "user_version"))
        if application != APPLICATION:
            got = "an empty or half-made file" if application == 0 else "another program's database"
            raise ArtifactError(
                expected="a store of clip_fewshot", got=got, fix="check the path, or create one", where=str(self.path)
            )
        if schema not in (WITHOUT_SUMS, WITHOUT_WATCH, STORE_SCHEMA):
            raise ArtifactError(
                expected=f"schema {STORE_SCHEMA}",
                got=f"schema {schema}",
                fix="use the release that wrote it",
                where=str(self.path),
            )
        return int(schema)

    def make_tables(self) -> None:
        """Turn an empty file into a store, inside of a transaction."""
        if self.value("SELECT count(*) FROM sqlite_master"):
            raise UsageError(
                expected="a folder without a store",
                got="one that has one",
                fix="open it, or choose another",
                where=str(self.path),
            )
        for statement in list_statements():
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA application_id = {APPLICATION}")
        self._connection.execute(f"PRAGMA user_version = {STORE_SCHEMA}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing, alone among writers; on the disk when the block has ended."""
        with self._inside("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several reads of one state; writers go on meanwhile."""
        with self._inside("BEGIN"):
            yield

    @contextmanager
    def _inside(self, begin: str) -> Iterator[None]:
        with self._explained():
            self._connection.execute(begin)
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """One statement; the row number it inserted, if any."""
        with self._explained():
            return self._connection.execute(sql, values).lastrowid or 0

    def insert(self, table: str, *values: Any) -> None:
        """A row of a table of ``SUMMED``, all its columns but the last, which is its checksum."""
        self.run(f"INSERT INTO {table} VALUES ({', '.join('?' * (len(values) + 1))})", (*values, row_crc(*values)))

    def next_number(self, table: str, column: str = "number") -> int:
        """What the next row of a table that only grows is to be called, inside of a transaction; the first one 1."""
        return 1 + (self.value(f"SELECT max({column}) FROM {table}") or 0)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """One statement for many rows; how many it changed."""
        with self._explained():
            return self._connection.executemany(sql, rows).rowcount

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows."""
        with self._explained():
            return self._connection.execute(sql, values).fetchall()

    def iterate(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows one by one."""
        with self._explained():
            yield from self._connection.execute(sql, values)

    def value(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        with self._explained():
            row = self._connection.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def refuse_damage(self) -> None:
        """Let SQLite look for damage, in tables and in their indices, by which rows are found and counted.

        Raises:
            ArtifactError: damage.
        """
        found = self.rows("PRAGMA integrity_check(5)")
        text = "; ".join(str(row[0]) for row in found)
        if text != "ok":
            raise self._damage(text)

    def check_rows(self, tables: Iterable[str]) -> None:
        """Read every row of some tables of ``SUMMED`` against its checksum.

        Raises:
            ArtifactError: names the first that says something else than was written.
        """
        for table in tables:
            for number, (*values, crc) in enumerate(self.iterate(f"SELECT * FROM {table}"), start=1):
                if row_crc(*values) != crc:
                    raise self._damage(f"{table}, row {number}: other content than was written")

    def _damage(self, got: str) -> ArtifactError:
        fix = "restore it from a copy"
        return ArtifactError(expected="a sound store", got=got, fix=fix, where=str(self.path))

    def close(self) -> None:
        """Give the file back."""
        with self._explained():
            self._connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise UsageError(
                expected="an open store, in the thread that opened it",
                got=str(error),
                fix="open one here",
                where=str(self.path),
            ) from error
        except UnicodeDecodeError as error:  # of what SQLite says of damage
            raise self._damage(str(error)) from error
        except sqlite3.DatabaseError as error:
            text = str(error).lower()
            if any(word in text for word in LACKING):
                fix = "free the disk, correct the permissions or end the other process, and run again"
                raise ResourceError(
                    expected="a store that can be read and written", got=str(error), fix=fix, where=str(self.path)
                ) from error
            # Every statement is fixed: one that cannot be run meets tables that are not as they were made.
            if isinstance(error, sqlite3.OperationalError) or any(word in text for word in DAMAGED):
                raise self._damage(str(error)) from error
            raise
