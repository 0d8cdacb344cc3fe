"""The audit on setups as five published sources have them, with their defects and without; all made of digits."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DataError
from clip_fewshot.protocol.audit import find_leaks
from clip_fewshot.report.audit_tables import describe_audit

CLASSES = ("one", "two", "seven")


def scans(per_class: int, names: tuple[str, ...] = CLASSES) -> dict[str, list[Image.Image]]:
    """Scans of digits, enlarged."""
    data = read_dataset("digits")
    labels = data.required_labels()
    rows = {name: np.flatnonzero(labels == data.label_space.names.index(name))[:per_class] for name in names}
    return {name: [data.open(int(i)).resize((40, 40)) for i in found] for name, found in rows.items()}


def put(place: Path, picture: Image.Image, **options: Any) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    picture.save(place, **options)
    return place


def divided(folder: Path, per_class: int = 12) -> Path:
    """A tree with train/CLASS and test/CLASS."""
    for name, pictures in scans(per_class).items():
        for i, picture in enumerate(pictures):
            put(folder / ("train" if i % 2 else "test") / name / f"{i}.png", picture)
    return folder


def look(source: Path) -> dict[str, Any]:
    return find_leaks(read_dataset(source, contradictions=True), None)


def found(source: Path) -> dict[str, int]:
    return {name: check["found"] for name, check in look(source)["checks"].items()}


@pytest.mark.parametrize("repeated", [True, False])
def test_s0_captions_that_repeat_and_fifty_test_pictures(tmp_path: Path, repeated: bool) -> None:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    lines = []
    for name, pictures in scans(10, names).items():
        for i, picture in enumerate(pictures):
            place = put(tmp_path / f"{name}{i}.png", picture)
            caption = f"a photo of the number {name}" + ("" if repeated else f", written by writer {i}")
            lines.append((place.name, caption, "train" if i % 2 else "test"))
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *lines])
    checks = look(tmp_path / "pairs.csv")["checks"]
    assert checks["captions"]["found"] == (10 if repeated else 0)
    assert (f"cannot fall below {math.log(10):.3f}" in checks["captions"]["said"]) == repeated
    assert checks["captions"]["rows"][:1] == ([{"caption": lines[0][1], "times": 10}] if repeated else [])
    assert "with 50 test pictures an accuracy of .9 is known to [0.79, 0.96] only" in checks["sizes"]["said"]


def test_s1_test_pictures_that_are_nearly_training_pictures(tmp_path: Path) -> None:
    assert found(divided(tmp_path / "sound"))["both sides"] == 0
    tree = divided(tmp_path / "leaky")
    taken = Image.open(tree / "train/two/3.png")
    put(tree / "test/two/saved_again.jpg", taken, quality=80)
    put(tree / "test/two/brighter.png", ImageEnhance.Brightness(taken).enhance(0.8))
    put(tree / "test/seven/mirrored.png", ImageOps.mirror(Image.open(tree / "train/seven/5.png")))
    checks = look(tree)["checks"]
    assert checks["both sides"]["found"] == 3
    assert {Path(row["second"]).name for row in checks["both sides"]["rows"]} | {
        Path(row["first"]).name for row in checks["both sides"]["rows"]
    } == {"saved_again.jpg", "brighter.png", "mirrored.png", "3.png", "5.png"}
    assert not any(row["same file"] for row in checks["both sides"]["rows"])
    assert checks["copies"]["found"] == 1  # two of them are copies of each other, on one side
    assert checks["two labels"]["found"] == 0


def test_s2_exemplars_among_the_test_pictures_and_under_another_label(tmp_path: Path) -> None:
    tree = divided(tmp_path)
    for name in ("1", "3"):
        shutil.copy(tree / f"train/one/{name}.png", tree / f"test/one/again_{name}.png")
    shutil.copy(tree / "train/two/1.png", tree / "train/seven/wrong.png")
    with pytest.raises(DataError, match="label-conflict"):
        read_dataset(tree)
    checks = look(tree)["checks"]
    assert checks["both sides"]["found"] == 2
    assert all(row["same file"] and row["similarity"] == 1 for row in checks["both sides"]["rows"])
    assert checks["two labels"]["rows"] == [
        {
            "first": "train/seven/wrong.png",
            "second": "train/two/1.png",
            "same file": True,
            "similarity": 1.0,
            "first label": "seven",
            "second label": "two",
        }
    ]


def test_more_copies_than_neighbours_are_looked_at_hide_no_test_picture(tmp_path: Path) -> None:
    tree = divided(tmp_path)
    for i in range(14):
        shutil.copy(tree / "test/one/0.png", tree / f"test/one/copy_{i}.png")
    shutil.copy(tree / "test/one/0.png", tree / "train/one/copy.png")
    assert found(tree)["both sides"] == 15


def test_s3_stems_that_collapse_are_refused_with_both_named(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name, (scan,) in scans(1, ("one", "two")).items():
        put(tmp_path / name / f"{name}.png", scan)
        (tmp_path / "texts" / f"{name}.txt").write_text(f"a scan of {name}\n{name} by hand\n")
    sound = look(tmp_path)
    assert (sound["pictures"], sound["checks"]["captions"]["found"], sound["checks"]["copies"]["found"]) == (2, 0, 0)
    (tmp_path / "two/two.png").rename(tmp_path / "two/one.png")
    with pytest.raises(DataError, match=r"one/one.png and two/one.png"):
        look(tmp_path)


@pytest.mark.parametrize("told", [True, False])
def test_s4_categories_that_size_folder_and_format_give_away(tmp_path: Path, told: bool) -> None:
    lines = []
    for c, (name, pictures) in enumerate(scans(40).items()):
        for i, picture in enumerate(pictures):
            shelf, side = (f"shelf{c}", 40 + 8 * c) if told else (f"shelf{i % 3}", 40 + 8 * (i % 3))
            place = put(tmp_path / shelf / f"{name}{i}.jpg", picture.resize((side, side)), quality=70)
            lines.append((place.relative_to(tmp_path).as_posix(), name))
    with (tmp_path / "covers.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label"), *lines])
    check = look(tmp_path / "covers.csv")["checks"]["traces"]
    by_name = {row["trace"]: row for row in check["rows"]}
    for trace in ("folder", "width"):
        assert (by_name[trace]["p_value"] <= 0.01) == by_name[trace]["tells"] == told
        assert (by_name[trace]["accuracy"] > 0.95) == told
    if not told:  # names of files begin with the class in both: that stays, and is the one trace left
        assert {name for name, row in by_name.items() if row["tells"]} <= {"name", "all together", "bytes"}


def test_labels_that_were_changed_are_doubted_and_a_weak_probe_doubts_nothing(digits: ImageDataset) -> None:
    backbone, few = load_backbone("mini"), digits.subset(np.arange(160))
    labels = few.required_labels().copy()
    labels[[11, 60]] = (labels[[11, 60]] + 3) % 10
    wrong = ImageDataset(**{**vars(few), "labels": labels})
    doubts = find_leaks(wrong, backbone)["checks"]["doubtful labels"]
    assert {"digits/0011", "digits/0060"} <= {row["picture"] for row in doubts["rows"]}
    assert doubts["found"] <= 5
    more = vars(wrong.subset(np.append(np.arange(160), 11)))
    twice = ImageDataset(**{**more, "names": (*few.names, "copy")})  # which does not vouch for the wrong label
    doubted = {row["picture"] for row in find_leaks(twice, backbone)["checks"]["doubtful labels"]["rows"]}
    assert {"digits/0011", "copy"} <= doubted
    shuffled = ImageDataset(**{**vars(few), "labels": np.random.default_rng(0).permutation(labels)})
    none = find_leaks(shuffled, backbone)["checks"]["doubtful labels"]
    assert none["found"] == 0
    assert "try another --model" in none["said"]


def test_sizes_name_what_is_rare_or_missing(tmp_path: Path) -> None:
    tree = divided(tmp_path, per_class=40)
    for i in range(1, 40, 2):
        (tree / f"train/seven/{i}.png").unlink()
    for i in range(6, 40, 2):
        (tree / f"test/seven/{i}.png").unlink()
    found = look(tree)
    assert found["classes"]["seven"] == {"test": 3, "train": 0}
    assert "no train pictures of seven;" in found["checks"]["sizes"]["said"]
    assert "fewer than 5 pictures of seven;" in found["checks"]["sizes"]["said"]
    assert "one has 40 pictures, seven has 3" in found["checks"]["sizes"]["said"]


def test_the_text_shows_what_was_found_and_escapes_names(tmp_path: Path) -> None:
    tree = divided(tmp_path)
    shutil.copy(tree / "train/one/1.png", tree / "test/one/again\x1b[2J.png")
    text = describe_audit(look(tree))
    assert "! both sides" in text
    assert "  two labels" in text
    assert "\x1b" not in text
    assert "class  test  train" in text
