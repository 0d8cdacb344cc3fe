"""Pictures in a store: rows in, rows out, found by digest."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.errors import ArtifactError
from clip_fewshot.open_world.store.database import Database
from clip_fewshot.open_world.store.schema import row_crc
from clip_fewshot.types import FloatArray

VALUES_PER_STATEMENT = 500  # digests or numbers asked for in one statement


class Verdict(NamedTuple):
    """What is held of one picture: known (as ``label``), unknown, named (``label``) or rejected."""

    state: str
    label: str | None
    p_value: float
    score: float
    judged: int


class PictureRow(NamedTuple):
    """One picture to be stored. ``place``: the path it was read from, or None; ``square``: see :class:`Store`."""

    digest: str
    name: str
    place: str | None
    verdict: Verdict
    thumbnail: bytes
    embedding: FloatArray
    square: bytes | None = None


class StoredPicture(NamedTuple):
    """One picture that is stored."""

    seq: int
    digest: str
    name: str
    place: str | None
    verdict: Verdict


FIELDS = "digest, name, place, state, class, p_value, score, judged"
IMAGE_COLUMNS = f"seq, {FIELDS}, crc"
SEAL_IMAGES = f"UPDATE image SET crc = row_crc(seq, {FIELDS})"
WITHOUT_A_NAME = "FROM image WHERE seq > ? AND state <> 'named' ORDER BY seq"
UNNAMED = f"SELECT {IMAGE_COLUMNS} FROM image WHERE state IN ('known', 'unknown') AND seq > ? ORDER BY seq"
UNKNOWN = f"SELECT {IMAGE_COLUMNS} FROM image WHERE state = 'unknown' AND seq > ? ORDER BY seq"


def insert(database: Database, rows: Sequence[PictureRow], encoder: int) -> list[int]:
    """Store pictures that are not there yet; which of ``rows`` were new."""
    new = []
    for i, row in enumerate(rows):
        digest, (state, label, *numbers) = bytes.fromhex(row.digest), row.verdict
        if database.value("SELECT 1 FROM image WHERE digest = ?", (digest,)):
            continue
        seq = database.next_number("image", "seq")
        database.insert("image", seq, digest, row.name, row.place, state, label, *numbers)
        database.insert("thumbnail", seq, row.thumbnail)
        put_embedding(database, "embedding", seq, encoder, row.embedding)
        if row.square is not None:
            database.insert("square", seq, row.square)
        new.append(i)
    return new


def put_embedding(database: Database, table: str, seq: int, encoder: int, values: FloatArray) -> None:
    """Add (d,) values as float32 with their checksum."""
    data = np.asarray(values, "<f4").tobytes()
    database.run(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", (seq, encoder, data, zlib.crc32(data)))


def find(database: Database, digests: Iterable[str]) -> dict[str, StoredPicture]:
    """Those that are there, by digest."""
    found = {}
    for part in _parts([bytes.fromhex(digest) for digest in dict.fromkeys(digests)]):
        for row in database.rows(f"SELECT {IMAGE_COLUMNS} FROM image WHERE digest IN ({_marks(part)})", part):
            held = parse_row(row)
            found[held.digest] = held
    return found


def find_unknown(database: Database, after: int = 0) -> list[StoredPicture]:
    """The unknown pictures that came after number ``after``, in the order in which they came."""
    return [parse_row(row) for row in database.rows(UNKNOWN, (after,))]


def find_numbers(database: Database, seqs: Sequence[int]) -> list[StoredPicture]:
    """The pictures of these numbers, in the order in which they came."""
    asked = f"SELECT {IMAGE_COLUMNS} FROM image WHERE seq IN"
    parts = [database.rows(f"{asked} ({_marks(part)})", part) for part in _parts(seqs)]
    return sorted(parse_row(row) for part in parts for row in part)


def find_unnamed(database: Database, after: int = 0) -> list[StoredPicture]:
    """The known and unknown pictures that came after number ``after``, in the order in which they came."""
    return [parse_row(row) for row in database.rows(UNNAMED, (after,))]


def find_shown(database: Database) -> list[StoredPicture]:
    """All pictures but the rejected ones, in the order in which they came."""
    asked = f"SELECT {IMAGE_COLUMNS} FROM image WHERE state <> 'rejected' ORDER BY seq"
    return [parse_row(row) for row in database.rows(asked)]


def find_open(database: Database, classes: Sequence[str], after: int = 0) -> list[StoredPicture]:
    """The unknown pictures that came after number ``after``, and those that were taken to be of ``classes``."""
    asked = f"SELECT {IMAGE_COLUMNS} FROM image WHERE state = 'known' AND class IN ({_marks(classes)}) AND seq > ?"
    taken = [parse_row(row) for row in database.rows(asked, (*classes, after))] if classes else []
    return sorted([*find_unknown(database, after), *taken])


def read_embeddings(
    database: Database, seqs: Sequence[int], encoder: int, where: str, table: str = "embedding"
) -> FloatArray:
    """(n, d) float32 in the order of ``seqs``.

    Raises:
        ArtifactError: one is missing, was made by another encoder, or is damaged.
    """
    rows: list[Any] = [None] * len(seqs)
    place = {seq: i for i, seq in enumerate(seqs)}
    for part in _parts(seqs):
        asked = f"SELECT seq, encoder, data, crc FROM {table} WHERE seq IN ({_marks(part)})"
        for seq, made_by, data, crc in database.iterate(asked, part):
            if made_by != encoder or zlib.crc32(data) != crc:
                got = "one that is damaged" if made_by == encoder else "one of another encoder"
                raise ArtifactError(
                    expected="an embedding as it was written",
                    got=got,
                    fix="restore the store from a copy",
                    where=f"{where}: image {seq}",
                )
            rows[place[seq]] = np.frombuffer(data, "<f4")
    if any(row is None for row in rows):
        raise ArtifactError(
            expected="an embedding of each picture", got="one without", fix="restore the store from a copy", where=where
        )
    if not rows:
        width = database.value(f"SELECT length(data) / 4 FROM {table} LIMIT 1")
        return np.empty((0, width or 0), np.float32)
    return np.stack(rows)


def read_blobs(database: Database, table: str, seqs: Sequence[int]) -> dict[int, bytes]:
    """Those of ``thumbnail`` or ``square`` that are there."""
    found: dict[int, bytes] = {}
    for part in _parts(seqs):
        for seq, data, crc in database.rows(f"SELECT seq, data, crc FROM {table} WHERE seq IN ({_marks(part)})", part):
            _check(table, seq, crc, seq, data)
            found[seq] = data
    return found


def change_verdicts(database: Database, revision: int, verdicts: Mapping[int, Verdict]) -> None:
    """Give pictures other verdicts, and keep the ones they had as what ``revision`` changed."""
    held = "seq, state, class, p_value, score, judged"
    copy = f"INSERT INTO change SELECT ?1, {held}, row_crc(?1, {held}) FROM image WHERE seq = ?2"
    database.run_many(copy, [(revision, seq) for seq in verdicts])
    write_verdicts(database, verdicts)


def write_verdicts(database: Database, verdicts: Mapping[int, Verdict]) -> None:
    """Give pictures other verdicts."""
    assigned = "state = ?, class = ?, p_value = ?, score = ?, judged = ?"
    change_images(database, assigned, [(*verdict, seq) for seq, verdict in verdicts.items()])


def change_images(database: Database, assigned: str, values: Sequence[Sequence[Any]]) -> None:
    """Assign to columns of images, by SQL; each of ``values`` ends with the number of one."""
    database.run_many(f"UPDATE image SET {assigned} WHERE seq = ?", values)
    database.run_many(f"{SEAL_IMAGES} WHERE seq = ?", [(value[-1],) for value in values])


def find_changed(database: Database, revision: int) -> dict[int, Verdict]:
    """What ``revision`` changed: the verdicts before it."""
    changed = dict[int, Verdict]()
    for number, seq, *verdict, crc in database.rows("SELECT * FROM change WHERE revision = ?", (revision,)):
        _check("change", seq, crc, number, seq, *verdict)
        changed[seq] = Verdict(*verdict)
    return changed


def parse_row(row: Any) -> StoredPicture:
    """A row of ``IMAGE_COLUMNS`` as what it means.

    Raises:
        ArtifactError: damage.
    """
    seq, digest, name, place, *verdict, crc = row
    _check("image", seq, crc, *row[:-1])
    return StoredPicture(seq, digest.hex(), name, place, Verdict(*verdict))


def _check(table: str, seq: int, crc: int, *values: Any) -> None:
    if row_crc(*values) != crc:
        fix = "restore the store from a copy"
        raise ArtifactError(expected="a row as it was written", got="another", fix=fix, where=f"store: {table} {seq}")


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + VALUES_PER_STATEMENT] for start in range(0, len(values), VALUES_PER_STATEMENT))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
