"""The command `compare`: pictures, features of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.features.labelled_table import read_labelled
from clip_fewshot.features.table import read_features
from clip_fewshot.few_shot.objectives import read_class_texts
from clip_fewshot.runtime.files import read_json
from clip_fewshot.runtime.rng import derive_seed
from tests.commands.conftest import Command, one_line

SMALL = ("--shot-counts", "1,2", "--seeds", 2)
METHODS = ("--approaches", "text-prior,linear-probe,zero-shot")


def figures(folder: Path) -> Any:
    """All of compare.json that a clock has no part in."""
    sets = read_json(folder / "compare.json")["sets"]
    for point in (point for entry in sets for row in entry["rows"] for point in row["points"]):
        point.pop("seconds", None)
    return [entry["rows"] for entry in sets]


def test_methods_of_the_library_on_pictures(command: Command, photos: Path, tmp_path: Path) -> None:
    ended = command("compare", photos, "--model", "mini", *METHODS, *SMALL, "--out", tmp_path)
    assert ended.code == 0
    table = [line.split("|")[1].strip() for line in ended.out.splitlines() if line.startswith("|")]
    assert table[:5] == ["shots per class", "---", "text-prior", "linear-probe", "zero-shot"]
    (entry,) = read_json(tmp_path / "compare.json")["sets"]
    assert (entry["name"], entry["model"], entry["test_looks"]) == (photos.name, "mini", 1)
    assert {path.name for path in tmp_path.glob("[!.]*")} == {f"compare.{end}" for end in ("json", "csv", "tex", "svg")}
    again = command("compare", photos, "--model", "mini", *METHODS, *SMALL, "--out", tmp_path, "--json")
    assert again.record["sets"][0]["rows"][0]["method"] == "text-prior"


def test_an_approach_that_trains_is_trained_at_its_centre(command: Command, photos: Path, tmp_path: Path) -> None:
    more = ("--approaches", "linear-probe,mlp,auto", "--shot-counts", 2, "--seeds", 1, "--epochs", 1)
    assert command("compare", photos, "--model", "mini", *more, "--out", tmp_path).code == 0
    (entry,) = read_json(tmp_path / "compare.json")["sets"]
    (point,), (chosen,) = (row["points"] for row in entry["rows"][1:])
    backbone = cf.load_backbone("mini", device="cpu")
    split = cf.split_open_world(cf.read_dataset(photos), shots=2, seed=0)
    support = cf.draw_support(split.pool, 2, derive_seed(0, "draw", 1))
    model = cf.FewShotClassifier(backbone, "mlp", epochs=1, seed=0).fit(support)
    assert point["accuracy"]["mean"] == pytest.approx(model.score(split.test.open("test")), abs=1e-9)
    auto = cf.FewShotClassifier(backbone, epochs=1, seed=0).fit(support)
    assert chosen["accuracy"]["mean"] == pytest.approx(auto.score(split.test.open("test")), abs=1e-9)
    trained = sum(parameter.numel() for parameter in model.model_.suffix.parameters())
    assert point["parameters"] == trained + sum(one.numel() for one in model.model_.head.parameters())  # type: ignore[union-attr]


def test_a_feature_table_gives_what_its_pictures_give(command: Command, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    table = tmp_path / "t.parquet"
    (photos_out, table_out) = (tmp_path / "a", tmp_path / "b")
    assert command("embed", photos, "--model", "mini", "--labels", "--out", table).code == 0
    assert command("compare", photos, "--model", "mini", *METHODS, *SMALL, "--out", photos_out).code == 0
    assert command("compare", "--features", table, *METHODS, *SMALL, "--out", table_out).code == 0
    assert figures(photos_out) == figures(table_out)


def test_a_table_holds_classes_parts_and_texts(command: Command, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    table = tmp_path / "t.parquet"
    own = ("--template", "the number {}", "--template", "a {}, red")
    assert command("embed", photos, "--model", "mini", "--labels", *own, "--out", table).code == 0
    found, data = read_labelled(table), cf.read_dataset(photos)
    assert found.pictures.fingerprint() == data.fingerprint()
    assert found.pictures.label_space.names == data.label_space.names
    assert found.model == "mini"
    backbone = cf.load_backbone("mini", device="cpu")
    assert np.array_equal(found.texts, read_class_texts(backbone, data.label_space.names, own[1::2]))  # type: ignore[arg-type]
    assert np.array_equal(found.features, read_features(table).features)


def test_a_label_column_of_ones_own_is_enough_but_for_texts(command: Command, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    plain, own = tmp_path / "plain.parquet", tmp_path / "own.parquet"
    assert command("embed", photos, "--model", "mini", "--out", plain).code == 0
    one_line(command("compare", "--features", plain), 2, "expected a class in the column 'label'")
    table = parquet.read_table(plain)
    labels = [Path(path).parent.name for path in table.column("path").to_pylist()]
    parquet.write_table(table.append_column("label", [labels]), own)
    ended = command("compare", "--features", own, *METHODS, *SMALL, "--out", tmp_path / "out")
    assert ended.code == 3
    assert "zero-shot has no result at 1, 2 shots" in ended.err
    assert "expected texts of the classes" in ended.err
    (rows,) = figures(tmp_path / "out")
    assert [row["method"] for row in rows if "accuracy" in row["points"][0]] == ["linear-probe"]
    broken = table.append_column("label", [labels]).replace_schema_metadata({b"clip_fewshot": b'{"texts": "AAAA"}'})
    parquet.write_table(broken, own)
    one_line(command("compare", "--features", own), 2, "expected texts of 7 classes")


def test_mistakes_are_one_line_before_anything_is_read(command: Command, photos: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    one_line(command("compare", photos, "--approaches", "magic", *out), 2, "approach: expected one of")
    one_line(command("compare", photos, "--reference", "magic", *out), 2, "--reference: expected one of")
    one_line(command("compare", photos, "--shot-counts", "0", *out), 2, "--shot-counts")
    one_line(command("compare", photos, "--features", "t.parquet", *out), 2, "DATA without --features")
    one_line(command("compare", "--features", "t", "--model", "mini", *out), 2, "--model without --features")
    one_line(command("compare", "--features", "t", "--classes-at", 2, *out), 2, "--classes-at without --features")
    one_line(command("embed", photos, "--labels", "--spark"), 2, "--labels without --spark")
    one_line(command("embed", photos, "--template", "a {}"), 2, "--template with --labels")
    assert not (tmp_path / "out").exists()
