"""Hugging Face's Parquet: pictures stay in the file, classes keep their names, what is damaged or large is refused."""

from __future__ import annotations

import json
import os
import pickle
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.data import parquet as reader
from clip_fewshot.errors import DataError, ResourceError, UsageError
from tests.data.pictures import open_image, picture_bytes, put

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

NAMES = ["zebra", "ant", "bee"]  # not in the order of the alphabet: the numbers count
IMAGE = {"_type": "Image"}


def features(**of: dict[str, Any]) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": of}}).encode()}


def cells(seeds: range, format: str = "PNG", path: str | None = "x.png") -> Any:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": picture_bytes(seed, format), "path": path} for seed in seeds], kind)


def write(path: Path, columns: dict[str, Any], group: int = 3, **of: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if of:
        table = table.replace_schema_metadata(features(**of))
    pq.write_table(table, path, row_group_size=group)
    return path


def labelled(path: Path, seeds: range, names: list[str] | None = NAMES, **more: Any) -> Path:
    label = {"_type": "ClassLabel"} | ({"names": names} if names else {})
    numbers = [seed % 3 for seed in seeds]
    return write(
        path, {"image": cells(seeds), "label": pa.array(numbers, pa.int64()), **more}, image=IMAGE, label=label
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """As ``push_to_hub`` lays it out: two shards to train, one to validate, one to test."""
    for name, seeds in (
        ("train-00000-of-00002", range(8)),
        ("train-00001-of-00002", range(8, 14)),
        ("validation-00000-of-00001", range(20, 23)),
        ("test-00000-of-00001", range(30, 36)),
    ):
        labelled(tmp_path / "repo" / "data" / f"{name}.parquet", seeds)
    put(tmp_path / "repo" / "README.md", "# a data set")
    return tmp_path / "repo"


def test_a_repository_is_read_with_its_parts_and_class_names(repository: Path) -> None:
    data = cf.read_dataset(repository)
    assert len(data) == 23
    assert data.label_space.names == tuple(NAMES)
    seeds = [*range(30, 36), *range(14), *range(20, 23)]  # the shards in the order of their names
    assert data.required_labels().tolist() == [seed % 3 for seed in seeds]
    assert data.partition == ("test",) * 6 + ("train",) * 17
    assert data.names[6] == "data/train-00000-of-00002.parquet/0"
    assert len(set(data.digests)) == 23
    assert data.warnings == (
        "passed over .md files: 1",
        "the source's validation images joined the training side: validation comes out of the K shots",
    )
    split = cf.split_open_world(data, shots=4)
    assert len(split.test) == 6


def test_pictures_stay_in_the_file_and_open_as_they_are(repository: Path) -> None:
    data = cf.read_dataset(repository / "data" / "train-00000-of-00002.parquet")
    before = sorted(repository.rglob("*"))
    for row in (7, 0, 4):
        expected = put(repository.parent / "one.png", row)
        assert np.array_equal(np.asarray(data.open(row)), np.asarray(open_image(expected)))
        assert data.digests[row] == cf.read_images([expected]).digests[0]
    assert sorted(repository.rglob("*")) == before
    assert set(data.partition) == {"train"}
    labelled(repository / "data" / "train-00000-of-00002.parquet", range(50, 58))
    with pytest.raises(DataError, match="the file as it was first read"):
        data.open(0)


def test_they_train_like_others(repository: Path, tiny: cf.Backbone) -> None:
    data = cf.read_dataset(repository)
    model = cf.FewShotClassifier(tiny, approach="linear-probe", seed=0)
    assert len(model.fit(cf.split_open_world(data, shots=2).support).predict(data)) == 23


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("path", [None, "cat.jpg", "no extension"])
def test_the_kind_is_seen_by_the_content_and_strict_says_nothing(tmp_path: Path, format: str, path: str | None) -> None:
    file = write(tmp_path / "a.parquet", {"image": cells(range(4), format, path), "label": pa.array(["a", "b"] * 2)})
    data = cf.read_dataset(file, strict=True)
    assert (len(data), data.warnings, data.label_space.names) == (4, (), ("a", "b"))


def test_plain_bytes_numbers_without_names_and_texts(tmp_path: Path) -> None:
    plain = pa.array([picture_bytes(seed) for seed in range(4)], pa.binary())
    data = cf.read_dataset(write(tmp_path / "a.parquet", {"img": plain, "target": pa.array([7, 10, 7, 10])}))
    assert data.label_space.names == ("10", "7")
    texts = pa.array([["one", "two"], ["three"], ["four", "five"], ["six"]])
    data = cf.read_dataset(write(tmp_path / "b.parquet", {"image": cells(range(4)), "caption": texts}, image=IMAGE))
    assert data.captions == ("one", "two", "three", "four", "five", "six")
    assert data.labels is None
    both = {"image": cells(range(4)), "text": pa.array(list("abcd")), "label": pa.array([0, 1, 0, 1])}
    data = cf.read_dataset(
        write(tmp_path / "c.parquet", both, image=IMAGE, label={"_type": "ClassLabel", "names": ["x", "y"]})
    )
    assert data.captions == tuple("abcd")
    assert data.label_space.names == ("x", "y")


def test_columns_are_told_by_metadata_then_by_the_user(tmp_path: Path) -> None:
    numbers, label = pa.array([0, 1, 2, 0]), {"_type": "ClassLabel", "names": NAMES}
    coarse = {"_type": "ClassLabel", "names": ["animal", "plant", "thing"]}
    columns = {"coarse": numbers, "fine": numbers, "pixels": cells(range(4))}
    file = write(tmp_path / "a.parquet", columns, pixels=IMAGE, coarse=coarse, fine=label)
    with pytest.raises(DataError, match="one column of kind label, got 'coarse', 'fine'"):
        cf.read_dataset(file)
    assert cf.read_dataset(file, columns={"label": "fine"}).label_space.names == tuple(NAMES)
    assert cf.read_dataset(file, columns={"label": "coarse", "image": "pixels"}).label_space.names[0] == "animal"
    with pytest.raises(DataError, match="'colour', and 'coarse', 'fine' that could be"):
        cf.read_dataset(file, columns={"label": "colour"})
    with pytest.raises(UsageError, match="one of image, label, caption"):
        cf.read_dataset(file, columns={"weight": "fine"})
    two = write(
        tmp_path / "b.parquet",
        {"left": cells(range(4)), "right": cells(range(4, 8)), "label": numbers},
        left=IMAGE,
        right=IMAGE,
    )
    with pytest.raises(DataError, match="one column of kind image, got 'left', 'right'"):
        cf.read_dataset(two)
    assert (
        cf.read_dataset(two, columns={"image": "right"}).digests[0]
        == cf.read_images([put(tmp_path / "4.png", 4)]).digests[0]
    )


def test_rows_without_a_class_are_left_out_and_said(tmp_path: Path) -> None:
    label = {"_type": "ClassLabel", "names": NAMES}
    write(
        tmp_path / "d" / "train.parquet",
        {"image": cells(range(4)), "label": pa.array([0, 1, None, -1])},
        image=IMAGE,
        label=label,
    )
    write(
        tmp_path / "d" / "test.parquet",
        {"image": cells(range(4, 6)), "label": pa.array([-1, -1])},
        image=IMAGE,
        label=label,
    )
    data = cf.read_dataset(tmp_path / "d")
    assert data.label_space.names == ("zebra", "ant")
    assert data.warnings == (
        "left out: 2 rows of test.parquet without a class",
        "left out: 2 rows of train.parquet without a class",
    )


@pytest.mark.parametrize(
    "layout", ["train/0000.parquet", "data/train-00000-of-00001-abc.parquet", "train.parquet", "Train_1.parquet"]
)
def test_names_of_shards_say_the_part(tmp_path: Path, layout: str) -> None:
    labelled(tmp_path / layout, range(6))
    assert set(cf.read_dataset(tmp_path).partition) == {"train"}
    labelled(tmp_path / ".cache" / "test.parquet", range(6, 12))
    labelled(tmp_path / "other.parquet", range(12, 15))
    assert set(cf.read_dataset(tmp_path).partition) == {"train", ""}


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels from 0 to 1, or -1 for none, got 2"):
        cf.read_dataset(labelled(tmp_path / "a.parquet", range(6), ["x", "y"]))
    with pytest.raises(DataError, match="a column of pictures, and one of classes or texts"):
        cf.read_dataset(write(tmp_path / "b.parquet", {"image": cells(range(3))}, image=IMAGE))
    with pytest.raises(DataError, match="a column of pictures"):
        cf.read_dataset(write(tmp_path / "c.parquet", {"x": pa.array([1.0, 2.0]), "label": pa.array([0, 1])}))
    with pytest.raises(DataError, match="no row at all"):
        cf.read_dataset(labelled(tmp_path / "d.parquet", range(0)))
    with pytest.raises(DataError, match="a column name without /"):
        cf.read_dataset(write(tmp_path / "e.parquet", {"../x": cells(range(3)), "label": pa.array(list("aba"))}))
    empty = {"image": cells(range(3)), "caption": pa.array(["a", " ", "b"])}
    with pytest.raises(DataError, match=r"f.parquet/1: no text"):
        cf.read_dataset(write(tmp_path / "f.parquet", empty, image=IMAGE))


def test_damaged_files_and_pictures(tmp_path: Path) -> None:
    whole = labelled(tmp_path / "a.parquet", range(9)).read_bytes()
    for name, content in {"b": whole[: len(whole) // 2], "c": b"PAR1", "d": b"", "e": b"x" * 100}.items():
        with pytest.raises(DataError, match="a whole Parquet file"):
            cf.read_dataset(put(tmp_path / f"{name}.parquet", content))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    good = [{"bytes": picture_bytes(seed), "path": None} for seed in range(300)]
    bad = [{"bytes": b"no picture", "path": None}, {"bytes": None, "path": "/etc/hostname"}]
    file = write(
        tmp_path / "f.parquet", {"image": pa.array(good + bad, kind), "label": pa.array(["a", "b"] * 151)}, group=100
    )
    data = cf.read_dataset(file)
    assert len(data) == 300
    assert [(Path(path).name, reason) for path, reason, _ in data.skipped] == [
        ("300", "not-image"),
        ("301", "unreadable"),
    ]
    assert "none in this row" in data.skipped[1].detail


def test_many_random_changes_of_bytes_are_read_or_refused(tmp_path: Path) -> None:
    whole = labelled(tmp_path / "a.parquet", range(6)).read_bytes()
    rng = np.random.default_rng(0)
    for i in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 4):
            data[place] = rng.integers(0, 256)
        with suppress(DataError):
            cf.read_dataset(put(tmp_path / f"{i}.parquet", bytes(data)))


def test_a_small_file_that_would_be_a_huge_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same picture two hundred times is one entry of a dictionary: 10 MB out of a file of 200 kB."""
    same = pa.array(
        [{"bytes": picture_bytes(1) + bytes(50_000), "path": None}] * 200,
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    file = write(tmp_path / "a.parquet", {"image": same, "label": pa.array(["a", "b"] * 100)}, group=200)
    assert file.stat().st_size < 200_000
    monkeypatch.setattr(reader, "GROUP_LIMIT", 1_000_000)
    taken: list[int] = []
    real = reader.read_rows

    def counted(*given: Any) -> Any:
        for rows in real(*given):
            taken.append(len(rows))
            yield rows

    monkeypatch.setattr(reader, "read_rows", counted)
    with pytest.raises(DataError, match="smaller row groups"):
        reader.cell_bytes(file / "image" / "5", 1 << 30)
    assert sum(taken) < 50  # it stops where the limit is reached
    monkeypatch.setattr(reader, "GROUP_LIMIT", 1 << 30)
    assert reader.cell_bytes(file / "image" / "5", 1 << 30)
    with pytest.raises(DataError, match="at most 10 bytes"):
        reader.cell_bytes(file / "image" / "5", 10)


def test_a_schema_that_names_python_code_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Calls:
        def __reduce__(self) -> Any:
            return os.system, ("touch owned",)

    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Calls()),
    }
    label = pa.field("label", pa.string(), metadata=extension)
    image = pa.field("image", cells(range(0)).type)
    table = pa.table([cells(range(3)), pa.array(["a", "b", "a"])], schema=pa.schema([image, label]))
    pq.write_table(table, "a.parquet")
    assert len(cf.read_dataset("a.parquet")) == 3
    assert not (tmp_path / "owned").exists()


def test_paths_that_lead_into_no_row(tmp_path: Path) -> None:
    file = labelled(tmp_path / "a.parquet", range(3))
    for place in (file / "image" / "3", file / "image" / "99999999999999999999"):
        with pytest.raises(DataError, match="none in this row"):
            open_image(place)
    for place in (file / "images" / "0", file / "image" / "x", file / "0", tmp_path / "b.parquet" / "image" / "0"):
        with pytest.raises(DataError):
            open_image(place)


def test_without_pyarrow_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = labelled(tmp_path / "a.parquet", range(3))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ResourceError, match=r"clip-fewshot\[parquet\]"):
        cf.read_dataset(file)
    monkeypatch.setitem(sys.modules, "pyarrow", pa)
    monkeypatch.setattr(pa, "__version__", "14.0.0")
    with pytest.raises(ResourceError, match=r"a newer pyarrow, got 14\.0\.0"):
        cf.read_dataset(file)
