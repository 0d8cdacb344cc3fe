"""A feature table is read as it was written, or refused; what others write anew is theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_fewshot.errors import ArtifactError
from clip_fewshot.features.labelled_table import read_labelled
from clip_fewshot.features.sums import SUMS, TABLE_KEY, WRITTEN
from clip_fewshot.features.table import Embedded, read_columns, read_features, write_features
from clip_fewshot.types import FeatureSet

parquet: Any = pytest.importorskip("pyarrow.parquet")
arrow: Any = pytest.importorskip("pyarrow")


def parts(*sizes: int) -> Iterator[Embedded]:
    start = 0
    for n in sizes:
        rows, start = range(start, start + n), start + n
        features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)[rows.start : rows.stop]
        marks = tuple(("cät" if i % 3 else "dog", "test" if i % 2 else "") for i in rows)
        names = tuple(f"{i}.png" for i in rows)
        yield Embedded(names, FeatureSet(features, tuple(f"{i:064x}" for i in rows), "b" * 64), (), marks)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_features(
        tmp_path / "t.parquet", parts(15, 2), {TABLE_KEY: b'{"model": "mini", "classes": ["dog", "c\\u00e4t"]}'}
    )
    return tmp_path / "t.parquet"


def everything(table: Path) -> list[object]:
    found = read_labelled(table)
    names, labels = found.pictures.names, found.pictures.required_labels().tolist()
    return [found.features.tobytes(), names, labels, found.pictures.label_space.names, found.pictures.partition,
            found.pictures.digests, found.model]  # fmt: skip


def test_any_changed_byte(table: Path) -> None:
    sound, right, draw, said = table.read_bytes(), everything(table), np.random.default_rng(1), list[str]()
    for at in draw.choice(len(sound), 200, replace=False):
        table.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << int(draw.integers(8))]) + sound[at + 1 :])
        try:
            assert everything(table) == right, at  # a byte that nobody reads
        except ArtifactError as error:
            said.append(str(error))
    assert len(said) > 100
    assert all("t.parquet" in message for message in said)
    table.write_bytes(sound)
    assert everything(table) == right


def test_other_numbers_under_the_marks_of_before(table: Path) -> None:
    """Pages with right checksums of their own, as of a file that was put together out of two."""
    held, marks = parquet.read_table(table), parquet.read_metadata(table).metadata
    vectors = held.column("embedding").to_pylist()
    for changed in (False, True):
        vectors[3] = [*vectors[3][:4], vectors[3][4] + 0.25 * changed]
        column = arrow.array(vectors, held.schema.field("embedding").type)
        other = held.set_column(held.column_names.index("embedding"), held.schema.field("embedding"), column)
        with parquet.ParquetWriter(table, other.schema, write_page_checksum=True) as writer:
            writer.write_table(other)
            writer.add_key_value_metadata({mark: marks[mark] for mark in (WRITTEN, SUMS)})
        if changed:
            with pytest.raises(ArtifactError, match="a changed one"):
                read_features(table)
        else:
            assert len(read_features(table).features) == 17


@pytest.mark.parametrize("mark", [SUMS, WRITTEN])
def test_one_mark_alone_is_damage(table: Path, mark: bytes) -> None:
    table.write_bytes(table.read_bytes().replace(mark, mark[:-1] + b"x"))
    with pytest.raises(ArtifactError, match="written"):
        read_features(table)


def test_the_sums_do_not_depend_on_the_parts(table: Path) -> None:
    about = {TABLE_KEY: b"{}"}
    write_features(table, parts(17), about)
    whole = parquet.read_metadata(table).metadata
    write_features(table, parts(1, 9, 7), about)
    assert parquet.read_metadata(table).metadata[SUMS] == whole[SUMS]
    assert read_columns(table, ["label"]).column_names == ["label"]
    with pytest.raises(ArtifactError, match="no column size"):
        read_columns(table, ["size"])


def test_what_a_user_makes_of_a_table_is_read_as_it_is(table: Path, tmp_path: Path) -> None:
    held, features = parquet.read_table(table), read_features(table).features
    mine = tmp_path / "mine.parquet"
    parquet.write_table(held.slice(3, 5), mine)
    assert np.array_equal(read_features(mine).features, features[3:8])
    named = arrow.array(["a", "b"] * 8 + ["a"])
    parquet.write_table(held.replace_schema_metadata(None).drop_columns(["label"]).append_column("label", named), mine)
    assert read_labelled(mine).pictures.label_space.names == ("a", "b")


def test_a_table_of_a_release_without_sums(table: Path, tmp_path: Path) -> None:
    held = parquet.read_table(table)
    with (tmp_path / "old.parquet").open("wb") as file, parquet.ParquetWriter(file, held.schema) as writer:
        writer.write_table(held)
    assert everything(tmp_path / "old.parquet") == everything(table)
