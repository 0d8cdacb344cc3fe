"""What a row of a store says is what was written, in every column; a store of before gets its checksums."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.errors import ArtifactError
from clip_fewshot.open_world.store.schema import APPEND_ONLY, BEFORE_WATCH, WATCHING, row_crc
from clip_fewshot.open_world.store.store import Store

CHANGES = (
    "UPDATE image SET class = '/ne' WHERE seq = 1",
    "UPDATE image SET p_value = 0.00028 WHERE seq = 2",
    "UPDATE image SET score = score + 1e-12 WHERE seq = 2",
    "UPDATE image SET digest = randomblob(32) WHERE seq = 3",
    "UPDATE image SET name = name || ' ' WHERE seq = 3",
    "UPDATE image SET state = 'rejected', class = NULL WHERE seq = 4",
    "UPDATE thumbnail SET data = randomblob(20) WHERE seq = 1",
    "UPDATE identity SET id = 'x'",
    "UPDATE encoder SET name = 'mini'",
    "UPDATE event SET class = 'bxolotl' WHERE kind = 'name'",
    "UPDATE change SET p_value = 1 WHERE seq = (SELECT min(seq) FROM change)",
    "UPDATE revision SET meta = replace(meta, '0.1', '0.2') WHERE number = 0",
    "UPDATE revision SET parent = NULL",
    "UPDATE model_file SET file = 'x' WHERE file = 'weights.safetensors'",
    "UPDATE content SET data = randomblob(20)",
    "UPDATE embedding SET data = zeroblob(length(data)) WHERE seq = 5",
)


@pytest.fixture
def filled(store: Store, strange: ImageDataset, familiar: ImageDataset) -> Path:
    """The folder of a store with known, unknown and named pictures; nobody has it open."""
    store.ingest(familiar.subset(np.arange(12)))
    store.ingest(strange.subset(np.arange(60)))
    store.name(store.discover()[0], "axolotl")
    store.close()
    return store.folder


def write(folder: Path, *statements: str) -> None:
    """Past the library, past its guards."""
    connection = sqlite3.connect(folder / "store.sqlite3", isolation_level=None)
    connection.create_function("row_crc", -1, row_crc)
    for statement in statements:
        connection.execute(statement)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def unguarded(folder: Path, *statements: str) -> None:
    dropped = [f"DROP TRIGGER {table}_{verb}" for table in APPEND_ONLY for verb in ("UPDATE", "DELETE")]
    write(folder, *dropped, *statements)


def everything(store: Store) -> list[object]:
    """All that is held, as a user reads it."""
    digests = [row[0].hex() for row in store.database.rows("SELECT digest FROM image ORDER BY seq")]
    files, meta = store.world.to_artifact()
    return [store.id, store.status(), store.history(), store.held(digests), store.thumbnails(digests), files, meta]


@pytest.mark.parametrize(("table", "column"), [("content", "sha256"), ("image", "class"), ("model_file", "state")])
def test_a_column_under_another_name_is_damage_in_our_words(
    filled: Path, tiny: Backbone, table: str, column: str
) -> None:
    """What SQLite says of it depends on the statement: no such column, or no column to join by."""
    write(
        filled,
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_schema SET sql = replace(sql, '{column}', '{column[:-1]}_') WHERE name = '{table}'",
    )
    with pytest.raises(ArtifactError):  # noqa: SIM117 - which of the two, it says
        with Store.open(filled, tiny) as changed:
            changed.check()


@pytest.mark.parametrize("change", CHANGES)
def test_any_column_of_any_table(filled: Path, tiny: Backbone, change: str) -> None:
    with Store.open(filled, tiny) as sound:
        sound.check()
    unguarded(filled, change)
    with pytest.raises(ArtifactError, match=r"store\.sqlite3|embedding"):  # noqa: SIM117 - which of the two, it says
        with Store.open(filled, tiny) as changed:
            changed.check()


@pytest.mark.parametrize("change", CHANGES[:5])
def test_a_large_store_is_checked_as_it_is_read(filled: Path, tiny: Backbone, change: str) -> None:
    unguarded(filled, change)
    with Store.open(filled, tiny, check=False) as changed, pytest.raises(ArtifactError, match=r"image [123]"):
        everything(changed)


@pytest.mark.parametrize("schema", [1, 2])
def test_a_store_of_before_is_opened_with_all_it_holds_and_goes_on(
    filled: Path, tiny: Backbone, strange: ImageDataset, schema: int
) -> None:
    with Store.open(filled, tiny) as opened:
        before = everything(opened)
    older = [f"DROP TABLE {table}" for table in WATCHING]
    if schema == 1:
        older += [f"ALTER TABLE {table} DROP COLUMN crc" for table in BEFORE_WATCH]
    write(filled, *older, f"PRAGMA user_version = {schema}")
    with Store.open(filled, tiny) as upgraded:
        assert everything(upgraded) == before
        upgraded.check()
        upgraded.ingest(strange.subset(np.arange(60, 70)))
        upgraded.undo()
        upgraded.check()
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            upgraded.database.run("DELETE FROM event")
    write(filled, "UPDATE image SET class = 'other' WHERE state = 'known'")
    with pytest.raises(ArtifactError, match="image, row"):
        Store.open(filled, tiny)


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (None, "None"), (b"a", "a"), ("é", "e"), (0.1, 0.1 + 1e-17)])
def test_a_checksum_tells_values_apart_as_sqlite_does(one: object, other: object) -> None:
    assert (row_crc(one, 2) == row_crc(other, 2)) is (one == other)
    assert row_crc(np.float64(0.5), "a") == row_crc(0.5, "a")
    assert row_crc(1, 2) != row_crc(2, 1)


@pytest.mark.parametrize("column", ["image SET name", "revision SET meta"])
def test_a_text_that_is_none_is_damage(filled: Path, tiny: Backbone, column: str) -> None:
    unguarded(filled, f"UPDATE {column} = CAST(x'61ff' AS TEXT)")
    with pytest.raises(ArtifactError, match=r"store\.sqlite3"):
        Store.open(filled, tiny)


def test_a_state_is_counted_as_it_was_written_though_a_byte_changed_in_a_row_or_in_an_index(
    filled: Path, tiny: Backbone
) -> None:
    path = filled / "store.sqlite3"
    sound = path.read_bytes()
    with Store.open(filled, tiny) as store:
        right = store.status()
    places = [place for place in range(len(sound)) if sound.startswith(b"unknown", place)]
    refused = 0
    for place in places[:: max(1, len(places) // 40)]:
        path.write_bytes(sound[:place] + b"v" + sound[place + 1 :])
        try:
            with Store.open(filled, tiny) as store:
                assert store.status() == right
        except ArtifactError:
            refused += 1
    assert refused > 10
