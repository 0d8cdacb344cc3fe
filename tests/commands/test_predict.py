"""What a saved model says of pictures, and what becomes of those it cannot read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import clip_fewshot as cf
from tests.commands.conftest import KNOWN, PER_CLASS, SHOTS, Command, one_line


@pytest.mark.parametrize("together", [False, True])
def test_every_picture_gets_the_answer_of_the_model(
    together: bool, command: Command, world: Path, photos: Path
) -> None:
    more = ["--together"] if together else []
    ended = command("predict", world, photos / "zero", photos / "six", "--json", "--top", 2, *more)
    assert (ended.code, ended.err) == (0, "")
    paths = [*sorted((photos / "zero").iterdir()), *sorted((photos / "six").iterdir())]
    wanted = cf.OpenWorldClassifier.load(world).predict(paths, top=2, together=together)
    for row, path, answer in zip(ended.record["answers"], paths, wanted, strict=True):
        assert row["image"] == str(path)
        assert row["label"] == answer.label
        assert row["p_value"] == pytest.approx(answer.p_value)
        assert [item["class"] for item in row["top"]] == [name for name, _ in answer.top]
        assert [item["probability"] for item in row["top"]] == pytest.approx([value for _, value in answer.top])
    labels = [row["label"] for row in ended.record["answers"]]
    assert labels[:PER_CLASS].count("zero") > PER_CLASS / 2
    assert labels[PER_CLASS:].count(None) > PER_CLASS / 2


def test_the_table_has_a_line_per_picture(command: Command, world: Path, photos: Path) -> None:
    ended = command("predict", world, photos / "three", "--top", 9)
    head, *lines = ended.out.splitlines()
    assert head.split()[:6] == ["image", "answer", "p", "not", "ruled", "out"]
    assert len(lines) == PER_CLASS
    answers = command("predict", world, photos / "three", "--json").record["answers"]
    for line, answer in zip(lines, answers, strict=True):
        assert len(line.split()) == 3 + max(1, len(answer["possible"])) + 2 * len(KNOWN)  # no more than there are
        assert ", ".join(answer["possible"]) in line


def test_unreadable_pictures_are_named_and_the_rest_is_answered(command: Command, world: Path, photos: Path) -> None:
    good = next((photos / "one").iterdir())
    ended = command("predict", world, good, photos / "nowhere.png", good, __file__)
    assert ended.code == 3
    assert len(ended.out.splitlines()) == 2  # the head and one picture, named twice
    assert "nowhere.png: [missing]" in ended.err
    assert "test_predict.py: [not-image]" in ended.err


def test_nothing_readable_is_an_error(command: Command, world: Path, tmp_path: Path) -> None:
    one_line(command("predict", world, "nowhere.png", __file__), 2, "[missing] nowhere.png", "[not-image]")
    one_line(command("predict", world, tmp_path), 2, "folders without pictures")


def test_a_model_without_a_detector_never_says_unknown(command: Command, bare: Path, photos: Path) -> None:
    record = command("predict", bare, photos / "six", "--json").record
    assert record["alpha"] is None
    assert all(row["label"] in KNOWN and row["p_value"] is None for row in record["answers"])
    assert {line.split()[2] for line in command("predict", bare, photos / "six").out.splitlines()[1:]} == {"-"}


def test_an_alpha_that_the_model_cannot_keep_is_said(
    command: Command, world: Path, photos: Path, tmp_path: Path
) -> None:
    model = cf.OpenWorldClassifier.load(world)
    model.alpha = 0.001
    model.save(tmp_path / "strict")
    ended = command("predict", tmp_path / "strict", photos / "six", "--json")
    assert "999 known images" in ended.err
    assert all(row["label"] is not None for row in ended.record["answers"])


def test_the_grid_shows_every_picture_and_survives_hostile_names(
    command: Command, world: Path, photos: Path, tmp_path: Path
) -> None:
    source = next((photos / "zero").iterdir())
    names = ["a.png", "<script>&.png"]
    for name in names:
        shutil.copy(source, tmp_path / name)
    grid = tmp_path / "out" / "grid.svg"
    assert command("predict", world, *(tmp_path / name for name in names), "--grid", grid).code == 0
    drawing = ElementTree.parse(grid).getroot()
    assert len(drawing.findall(".//{*}image")) == 2
    texts = [item.text for item in drawing.findall(".//{*}text")]
    assert "<script>&.png" in texts
    assert sum((text or "").startswith("zero ") for text in texts) == 2


def test_a_backbone_that_moved_is_named_by_hand(
    command: Command, photos: Path, tiny: cf.Backbone, split: Any, tmp_path: Path
) -> None:
    cf.save_backbone(tiny, tmp_path / "here", half=False)
    backbone = cf.load_backbone(str(tmp_path / "here"), device="cpu")
    cf.FewShotClassifier(backbone, approach="linear-probe").fit(split.support).save(tmp_path / "model")
    (tmp_path / "here").rename(tmp_path / "there")
    argv = (tmp_path / "model", photos / "zero")
    one_line(command("predict", *argv), 2, "name the backbone with --model")
    assert command("predict", *argv, "--model", tmp_path / "there").code == 0
    one_line(command("predict", *argv, "--model", "mini"), 2, "pass the backbone it was trained on")


def test_mistakes_are_one_line(command: Command, world: Path, photos: Path, tmp_path: Path) -> None:
    one_line(command("predict", tmp_path, photos), 2, "no manifest.json")
    one_line(command("predict", world, photos, "--top", 0), 2, "--top")
    one_line(command("predict", world, photos, "--grid", "a.png"), 2, ".svg")
    one_line(command("predict", world), 2, "PICTURES")


def test_the_support_is_as_small_as_it_says(split: Any) -> None:
    assert np.all(np.bincount(split.support.labels) == SHOTS)


def test_code_of_ones_own_is_imported_where_it_is_trusted_by_name(
    command: Command, split: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "python:its_pair:build"
    (tmp_path / "its_pair.py").write_text(
        "from tests.backbones.encoders import pair\n\n\ndef build():\n    return pair()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    classifier = cf.FewShotClassifier(cf.load_backbone(name, device="cpu"), approach="linear-probe", seed=0)
    classifier.fit(split.support).save(tmp_path / "model")
    asked = ("predict", tmp_path / "model", photos / "six", "--json")
    one_line(command(*asked), 2, name)
    one_line(command(*asked, "--trust", "build"), 2, "--trust: expected NAME=python:MODULE:OBJECT, got build")
    assert command(*asked, "--trust", f"{name}={name}").code == 0
