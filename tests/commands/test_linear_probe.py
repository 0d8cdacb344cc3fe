"""The look at a data set and the comparison of frozen models."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

import clip_fewshot as cf
from clip_fewshot.backbones.download import OFFICIAL
from clip_fewshot.protocol import compare_backbones
from tests.commands.conftest import KNOWN, PER_CLASS, UNKNOWN, Command, one_line


def test_the_look_counts_what_is_there(command: Command, photos: Path, tmp_path: Path) -> None:
    for name in ("zero", "one"):
        shutil.copytree(photos / name, tmp_path / name)
    Image.new("RGB", (40, 30)).save(tmp_path / "one" / "wide.png")
    (tmp_path / "one" / "broken.png").write_bytes(b"")
    ended = command("linear_probe", tmp_path, "--models", "mini", "--shots", 2, "--seeds", 1, "--json")
    seen = ended.record["data"]
    assert seen["classes"] == {"one": PER_CLASS + 1, "zero": PER_CLASS}
    assert (seen["sizes"]["least"], seen["sizes"]["greatest"]) == ([10, 10], [40, 30])
    assert seen["skipped"] == {"empty": 1}
    assert "1 unreadable picture: empty" in ended.err
    text = command("linear_probe", tmp_path, "--models", "mini", "--shots", 2, "--seeds", 1).out
    assert "33 pictures of 2 classes, 10 x 10 to 40 x 30, median 10 x 10 pixels; 1 skipped: empty" in text


def test_each_model_is_compared_with_pixels_on_one_test_set(command: Command, photos: Path, mini: cf.Backbone) -> None:
    argv = (photos, "--models", "mini", "--models", "mini", "--shots", 3, "--seeds", 2, "--json")
    found = command("linear_probe", *argv).record["models"]
    assert [entry["model"] for entry in found] == ["raw pixels", "mini"]
    assert len(found[1]["accuracy"]["per_seed"]) == 2
    assert {entry["accuracy"]["n_test"] for entry in found} == {found[0]["accuracy"]["n_test"]}
    split = cf.split_open_world(cf.read_dataset(photos), shots=3, seed=0)
    test, wanted = split.test.open("test"), []
    for seed in (0, 1):
        support = cf.draw_support(split.pool, 3, seed)
        probe = cf.LinearProbe(C=1.0).fit(cf.encode_images(mini, support).features, support.required_labels())
        wanted.append((probe.predict(cf.encode_images(mini, test).features) == test.labels).mean())
    assert found[1]["accuracy"]["per_seed"] == pytest.approx(wanted)
    assert found[1]["C"] == [1.0, 1.0]
    assert found[1]["accuracy"]["mean"] > found[0]["accuracy"]["mean"]


def test_tuning_searches_C_and_all_shots_train_once(command: Command, photos: Path) -> None:
    entry = command("linear_probe", photos, "--models", "mini", "--every-picture", "--tune", "--json").record["models"][
        1
    ]
    assert len(entry["C"]) == len(entry["accuracy"]["per_seed"]) == 1
    assert entry["C"] != [1.0]
    assert entry["notes"] == []


def test_what_limits_the_search_is_said(command: Command, photos: Path) -> None:
    ended = command("linear_probe", photos, "--models", "mini", "--shots", 1, "--seeds", 1, "--tune")
    assert "warning: mini: too few images per class to search C" in ended.err
    assert "warning: raw pixels: too few images per class to search C" in ended.err
    assert ended.out.splitlines()[-1].startswith("mini")


def test_a_C_at_the_edge_of_its_range_is_said_of_pixels_too(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels that hardly differ ask for as little regularisation as there is."""
    pixels = compare_backbones.raw_pixels
    monkeypatch.setattr(compare_backbones, "raw_pixels", lambda pictures: pixels(pictures) + 1000)
    ended = command("linear_probe", "digits", "--models", "mini", "--shots", 8, "--seeds", 1, "--tune")
    assert "warning: raw pixels: the best C, 1e+06, is an end of the range searched" in ended.err
    assert "warning: mini" not in ended.err


def test_all_are_the_nine_and_what_cannot_be_had_is_a_row_with_its_reason(
    command: Command, photos: Path, no_hub: None
) -> None:
    asked = ("linear_probe", photos, "--models", "all,mini", "--models", "RN50", "--shots", 1, "--seeds", 1)
    ended = command(*asked, "--json")
    assert ended.code == 3
    found = ended.record["models"]
    assert [entry["model"] for entry in found] == ["raw pixels", *OFFICIAL, "mini"]
    assert len(OFFICIAL) == 9
    assert ["accuracy" in entry for entry in found] == [True, *[False] * 9, True]
    assert all("no connection" in entry["error"] for entry in found[1:-1])
    assert ended.err.count("use the model photos (--model)") == 9
    rows = command(*asked).out.splitlines()[-12:]
    assert rows[0].split()[:2] == ["features", "accuracy"]
    assert all(row.startswith(name) for row, name in zip(rows[1:], ["raw pixels", *OFFICIAL, "mini"], strict=True))
    assert rows[2].startswith("RN50            not to be had: no connection")
    assert rows[1].index("[") == rows[-1].index("[")  # one column, though each row was written before the next


def test_a_row_is_there_before_the_next_model_is_met(
    command: Command, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = compare_backbones.try_backbone

    def until_the_second(name: str, device: str) -> object:
        if name != "mini":
            raise KeyboardInterrupt
        return plain(name, device)

    monkeypatch.setattr(compare_backbones, "try_backbone", until_the_second)
    ended = command("linear_probe", photos, "--models", "mini,RN50", "--shots", 1, "--seeds", 1)
    assert ended.code == 130
    assert [line.split()[0] for line in ended.out.splitlines()[-3:]] == ["features", "raw", "mini"]


def test_without_any_model_the_exit_code_says_what_lacks(command: Command, photos: Path, no_hub: None) -> None:
    ended = command("linear_probe", photos, "--model", "RN50", "--shots", 1, "--seeds", 1)
    assert ended.code == 4
    assert [line.split()[0] for line in ended.out.splitlines()[-3:]] == ["features", "raw", "RN50"]


def test_a_sample_of_each_class_is_drawn(command: Command, photos: Path, tmp_path: Path) -> None:
    argv = (photos, "--models", "mini", "--shots", 1, "--seeds", 1, "--grid", tmp_path / "sample.svg")
    assert command("linear_probe", *argv).code == 0
    drawing = ElementTree.parse(tmp_path / "sample.svg").getroot()
    texts = [item.text for item in drawing.findall(".//{*}text")]
    assert texts == [name for name in sorted(KNOWN + UNKNOWN) for _ in range(6)]


def test_mistakes_are_one_line(command: Command, photos: Path) -> None:
    short = ("--models", "mini", "--seeds", 1)
    ended = command("linear_probe", photos, *short, "--shots", 99, "--json")
    one_line(ended, 2, "99 training images per class")
    one_line(command("linear_probe", photos, *short, "--shots", 0), 2, "--shots")
    one_line(command("linear_probe", photos, *short, "--shots", "most"), 2, "a whole number")
    one_line(command("linear_probe", photos, *short, "--C", 0), 2, "--C")
    one_line(command("linear_probe", photos, "--models", "mini,midi"), 2, "'midi'")  # before anything is measured
