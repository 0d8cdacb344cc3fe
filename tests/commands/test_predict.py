"""What a saved model says of pictures, and what becomes of those it cannot read."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.protocol import answer_pictures as steps
from clip_fewshot.report.answer_tables import SHOWN_ANSWERS
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


def test_the_summary_comes_first_and_then_a_line_per_picture(command: Command, world: Path, photos: Path) -> None:
    ended = command("predict", world, photos / "three", "--top", 9)
    summary, blank, head, *lines = ended.out.splitlines()
    assert (blank, head.split()[:6]) == ("", ["image", "answer", "p", "not", "ruled", "out"])
    assert len(lines) == PER_CLASS
    answers = command("predict", world, photos / "three", "--json").record["answers"]
    assert summary.startswith(f"{PER_CLASS} pictures: ")
    assert f"{sum(row['label'] == 'three' for row in answers)} three" in summary
    by_name = {answer["image"]: answer for answer in answers}
    for line, answer in [(line, by_name[line.split()[0]]) for line in lines]:
        assert len(line.split()) == 3 + max(1, len(answer["possible"])) + 2 * len(KNOWN)  # no more than there are
        assert ", ".join(answer["possible"]) in line


def test_blocks_answer_as_one_call_does(world: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, model = cf.read_dataset(photos), cf.OpenWorldClassifier.load(world)
    wanted = model.predict(pictures, top=2)
    monkeypatch.setattr(steps, "ANSWER_BLOCK", 64)
    told: list[int] = []
    answers, shift = steps.answer_pictures(model, pictures, 2, False, lambda block, said: told.append(len(said)))
    assert answers == list(wanted)
    assert shift == model.find_shift()
    assert told == [64, len(pictures) - 64]


def test_the_most_doubtful_answers_come_first(command: Command, world: Path, photos: Path) -> None:
    out = command("predict", world, photos / "zero", photos / "six").out
    answers = cf.OpenWorldClassifier.load(world).predict([*(photos / "zero").iterdir(), *(photos / "six").iterdir()])
    doubt = dict(zip(answers.to_frame()["image"], (answer.measure_doubt(0.1) for answer in answers), strict=True))
    printed = [doubt[line.split()[0]] for line in out.splitlines()[3:]]
    assert printed == sorted(printed, reverse=True)
    assert len(set(printed)) > PER_CLASS / 2


def test_the_screen_shows_the_most_doubtful_and_says_where_all_are(
    command: Command, world: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.csv"
    n, alone, kept = 112, command("predict", world, photos), command("predict", world, photos, "--out", out)
    assert alone.out.splitlines()[-1] == f"... and {n - SHOWN_ANSWERS} less doubtful; --out FILE.csv writes all"
    assert kept.out.splitlines()[-1].endswith(f"less doubtful; all are in {out}")
    assert len(alone.out.splitlines()) == 3 + SHOWN_ANSWERS + 1


def test_the_record_has_summary_counts_and_doubts(command: Command, world: Path, photos: Path) -> None:
    record = command("predict", world, photos, "--json").record
    labels = [row["label"] or "unknown" for row in record["answers"]]
    assert record["counts"] == Counter(labels)
    assert list(record["counts"].values())[:-1] == sorted((labels.count(name) for name in KNOWN), reverse=True)
    assert list(record["counts"])[-1] == "unknown"
    assert record["summary"] == command("predict", world, photos).out.splitlines()[0].split(";")[0]
    answers = cf.OpenWorldClassifier.load(world).predict(cf.read_dataset(photos))
    assert [row["doubt"] for row in record["answers"]] == [answer.measure_doubt(0.1) for answer in answers]


def test_excel_reads_the_names_of_a_csv_and_so_does_python(
    command: Command, world: Path, photos: Path, tmp_path: Path
) -> None:
    name, out = tmp_path / "Käfer 甲.png", tmp_path / "a.csv"
    shutil.copy(next((photos / "zero").iterdir()), name)
    command("predict", world, name, "--out", out)
    assert out.read_bytes().startswith(b"\xef\xbb\xbfimage,answer,")  # without it Excel takes UTF-8 for Latin-1
    assert out.read_text("utf-8").count("\ufeff") == 1
    assert [row["image"] for row in csv.DictReader(out.read_text("utf-8-sig").splitlines())] == [str(name)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_answers_are_written_a_row_a_picture(
    kind: str, command: Command, world: Path, photos: Path, tmp_path: Path
) -> None:
    pandas = pytest.importorskip("pandas")
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / "new" / f"answers.{kind}"
    record = command("predict", world, photos, "--out", out, "--top", 2, "--json").record
    read = {"csv": pandas.read_csv, "jsonl": partial(pandas.read_json, lines=True), "parquet": pandas.read_parquet}
    frame = read[kind](out)
    assert list(frame["image"]) == [row["image"] for row in record["answers"]]
    assert list(frame["answer"]) == [row["label"] or "unknown" for row in record["answers"]]
    assert frame["p_value"].to_numpy() == pytest.approx([row["p_value"] for row in record["answers"]])
    assert frame["probability_2"].to_numpy() == pytest.approx([r["top"][1]["probability"] for r in record["answers"]])
    assert frame["doubt"].between(0, 1).all()
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_without_a_detector_p_is_empty_in_the_file(command: Command, bare: Path, photos: Path, tmp_path: Path) -> None:
    assert command("predict", bare, photos / "six", "--out", tmp_path / "a.jsonl").code == 0
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert {(row["p_value"], row["score"]) for row in rows} == {(None, None)}


def test_pictures_are_sorted_into_a_folder_per_answer_and_stay(
    command: Command, world: Path, photos: Path, tmp_path: Path
) -> None:
    places = [tmp_path / "in" / name for name in ("a", "b")]
    for place in places:  # the same names twice
        shutil.copytree(photos / "zero", place)
    before = {path: path.read_bytes() for place in places for path in place.iterdir()}
    ended = command("predict", world, tmp_path / "in", "--sort-into", tmp_path / "out", "--json")
    told = Counter(row["label"] or "unknown" for row in ended.record["answers"])
    copies = list((tmp_path / "out").rglob("*.png"))
    assert Counter(path.parent.name for path in copies) == told
    assert sorted(path.read_bytes() for path in copies) == sorted(before.values())
    assert {path: path.read_bytes() for place in places for path in place.iterdir()} == before
    linked = command("predict", world, tmp_path / "in", "--sort-into", tmp_path / "links", "--links")
    links = [path for path in (tmp_path / "links").rglob("*") if path.is_symlink()]
    assert {path.resolve() for path in links} == {path.resolve() for path in before}
    assert linked.err.strip().endswith(f"unsort {tmp_path / 'links'}")


def test_nothing_of_the_users_is_replaced_and_that_is_said_before_any_work(
    command: Command, world: Path, photos: Path, tmp_path: Path
) -> None:
    mine, full = tmp_path / "mine.csv", tmp_path / "full"
    mine.write_text("image,answer,mine\n")
    full.mkdir()
    (full / "note.txt").write_text("mine")
    asked = ("predict", tmp_path / "no_model", photos)
    one_line(command(*asked, "--out", mine), 4, "another file", "--overwrite")
    one_line(command(*asked, "--sort-into", full), 4, "a new or empty folder")
    one_line(command(*asked, "--sort-into", photos / "sorted"), 4, "outside of the pictures")
    one_line(command(*asked, "--out", tmp_path / "a.xlsx"), 2, ".csv, .jsonl, .parquet")
    one_line(command(*asked, "--links"), 2, "--sort-into")
    one_line(command(*asked, "--out", tmp_path / "a.csv", "--sort-into", tmp_path / "a.csv"), 2, "for both")
    one_line(command("predict", world, "digits", "--sort-into", tmp_path / "new"), 2, "pictures in files")
    assert (mine.read_text(), sorted(path.name for path in tmp_path.iterdir())) == (
        "image,answer,mine\n",
        ["full", "mine.csv"],
    )


def test_unreadable_pictures_are_named_and_the_rest_is_answered(command: Command, world: Path, photos: Path) -> None:
    good = next((photos / "one").iterdir())
    ended = command("predict", world, good, photos / "nowhere.png", good, __file__)
    assert ended.code == 3
    summary, _, *table = ended.out.splitlines()
    assert summary.startswith("1 picture: ")
    assert len(table) == 2  # the head and one picture, named twice
    assert "nowhere.png: [missing]" in ended.err
    assert "test_predict.py: [not-image]" in ended.err


def test_nothing_readable_is_an_error(command: Command, world: Path, tmp_path: Path) -> None:
    one_line(command("predict", world, "nowhere.png", __file__), 2, "[missing] nowhere.png", "[not-image]")
    one_line(command("predict", world, tmp_path), 2, "folders without pictures")


def test_a_model_without_a_detector_never_says_unknown(command: Command, bare: Path, photos: Path) -> None:
    record = command("predict", bare, photos / "six", "--json").record
    assert record["alpha"] is None
    assert all(row["label"] in KNOWN and row["p_value"] is None for row in record["answers"])
    assert {line.split()[2] for line in command("predict", bare, photos / "six").out.splitlines()[3:]} == {"-"}


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
