"""One connection to the SQLite file of a store: transactions, and errors in this library's words.

Every other durable write of the library goes through :mod:`clip_fewshot.runtime.files`. SQLite is the one exception: it
writes its own file, in WAL mode with a full sync at every commit, so that what was acknowledged survives a kill and a
power cut, readers see the state before or after a transaction, and neither waits for the other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clip_fewshot.errors import ArtifactError, ResourceError, UsageError
from clip_fewshot.open_world.store.schema import APPLICATION, PAGE, STORE_SCHEMA, list_statements

DATABASE_FILE = "store.sqlite3"
BUSY_TIMEOUT = 60.0  # seconds to wait for another process's transaction
OLDEST = (3, 37, 0)  # STRICT tables
LACKING = ("locked", "busy", "disk is full", "readonly", "read-only", "unable to open", "disk i/o error")
DAMAGED = ("malformed", "not a database", "corrupt", "no such table", "no such column", "file is encrypted")


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
        if not fresh and not self.path.is_file():
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
        if fresh:
            self._connection.execute(f"PRAGMA page_size = {PAGE}")
        else:
            self._check_kind()
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
            self._connection.execute(f"PRAGMA {pragma}")

    def _check_kind(self) -> None:
        application, schema = (self.value(f"PRAGMA {name}") for name in ("application_id", "user_version"))
        if application != APPLICATION:
            got = "an empty or half-made file" if application == 0 else "another program's database"
            raise ArtifactError(
                expected="a store of clip_fewshot", got=got, fix="check the path, or create one", where=str(self.path)
            )
        if schema != STORE_SCHEMA:
            raise ArtifactError(
                expected=f"schema {STORE_SCHEMA}",
                got=f"schema {schema}",
                fix="use the release that wrote it",
                where=str(self.path),
            )

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

    def damage(self, quick: bool) -> str | None:
        """What SQLite's own check finds wrong, or None. ``quick`` skips comparing tables with their indices."""
        found = self.rows("PRAGMA quick_check(5)" if quick else "PRAGMA integrity_check(5)")
        text = "; ".join(str(row[0]) for row in found)
        return None if text == "ok" else text

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
        except sqlite3.DatabaseError as error:
            text = str(error).lower()
            if any(word in text for word in LACKING):
                fix = "free the disk, correct the permissions or end the other process, and run again"
                raise ResourceError(
                    expected="a store that can be read and written", got=str(error), fix=fix, where=str(self.path)
                ) from error
            if any(word in text for word in DAMAGED):
                raise ArtifactError(
                    expected="a sound store", got=str(error), fix="restore it from a copy", where=str(self.path)
                ) from error
            raise
