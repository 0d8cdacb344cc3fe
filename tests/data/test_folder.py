"""Folders of pictures: what is a class, what is a part, what stops and what is only said."""

from __future__ import annotations

import os
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DataError, UsageError
from tests.data.pictures import class_folders, picture_bytes, pixels, put


def test_a_folder_per_class(tmp_path: Path) -> None:
    class_folders(tmp_path, {"bee": 3, "ant": 2})
    put(tmp_path / "bee" / "2021" / "deep.png", 99)
    dataset = read_dataset(tmp_path)
    assert dataset.counts() == {"ant": 2, "bee": 4}
    assert dataset.names[2:4] == ("bee/000.png", "bee/001.png")
    assert dataset.names[-1] == "bee/2021/deep.png"
    assert set(dataset.partition) == {""}
    assert dataset.skipped == dataset.warnings == ()
    assert dataset.open(0).size == (32, 24)
    assert dataset.captions is None


def test_train_val_and_test(tmp_path: Path) -> None:
    class_folders(tmp_path / "Train", {"ant": 2, "bee": 2})
    class_folders(tmp_path / "val", {"ant": 1}, start=50)
    class_folders(tmp_path / "test", {"ant": 1, "bee": 1}, start=70)
    put(tmp_path / "background" / "a.png", 90)
    put(tmp_path / "test" / "stray.png", 91)
    dataset = read_dataset(tmp_path)
    assert dataset.counts() == {"ant": 4, "bee": 3}
    parts = dict(zip(dataset.names, dataset.partition, strict=True))
    assert parts["Train/ant/000.png"] == parts["val/ant/000.png"] == "train"
    assert parts["test/bee/000.png"] == "test"
    assert "not read: 2 pictures in no class folder" in dataset.warnings[0]
    assert "validation" in dataset.warnings[1]


def test_a_class_named_train_is_a_class(tmp_path: Path) -> None:
    class_folders(tmp_path, {"train": 2, "bus": 2})
    assert read_dataset(tmp_path).counts() == {"bus": 2, "train": 2}
    class_folders(tmp_path / "train" / "steam", {"": 1}, start=30)
    assert read_dataset(tmp_path).counts() == {"bus": 2, "train": 3}


def test_pictures_without_class_folders_have_no_labels(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / f"{i}.png", i)
    dataset = read_dataset(tmp_path)
    assert dataset.labels is None
    assert len(dataset.label_space) == 0
    with pytest.raises(DataError, match="labelled images"):
        dataset.counts()


def test_hidden_and_system_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"ant": 1, "bee": 1})
    for name in (".hidden.png", "Thumbs.db", ".DS_Store", "__MACOSX/x.png", ".ipynb_checkpoints/y.png"):
        put(tmp_path / "ant" / name, b"x")
    put(tmp_path / "ant" / "notes.md", b"x")
    dataset = read_dataset(tmp_path)
    assert len(dataset) == 2
    assert dataset.warnings == ("passed over .md files: 1", "passed over hidden or system files: 5")


NAMES = [
    "a b.png",
    "tab\t.png",
    "new\nline.png",
    "'\".png",
    "-rf.png",
    "=cmd().png",
    "é.png",
    "日本.png",
    "a" * 251 + ".png",
]


def test_odd_names_are_read(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/ant/\xff\xfe.png"
    for i, name in enumerate(NAMES):
        put(tmp_path / "ant" / name, i)
    with open(raw, "wb") as file:
        file.write(picture_bytes(88))
    dataset = read_dataset(tmp_path)
    assert sorted(dataset.names) == sorted([*(f"ant/{name}" for name in NAMES), "ant/\udcff\udcfe.png"])
    assert all(dataset.open(i) for i in range(len(dataset)))
    assert len(dataset.fingerprint()) == 64


def test_order_does_not_depend_on_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, {"b": 3, "B2": 3, "ä": 3, "a": 3})
    expected = read_dataset(tmp_path).names
    assert list(expected) == sorted(expected, key=str.encode)
    scandir = os.scandir

    class Shuffled:
        def __init__(self, path: str) -> None:
            with scandir(path) as items:
                self.items = list(items)
            random.Random(5).shuffle(self.items)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.items

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert read_dataset(tmp_path).names == expected


def test_links_inside_are_followed_once_and_links_outside_refused(tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "photos", {"ant": 2, "bee": 1})
    (photos / "ant" / "again").symlink_to(photos, target_is_directory=True)
    (photos / "wasp").symlink_to(photos / "ant", target_is_directory=True)
    dataset = read_dataset(photos)
    assert dataset.counts() == {"ant": 2, "bee": 1}
    assert dataset.warnings == ("passed over links to folders that are read anyway: 2",)
    (photos / "bee" / "copy.png").symlink_to(photos / "bee" / "000.png")
    assert "copy of another picture" in read_dataset(photos).warnings[1]
    put(tmp_path / "secret.png", 77)
    (photos / "bee" / "out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match=r"leaves it.*") as caught:
        read_dataset(photos)
    assert "bee/out.png" in str(caught.value)


def test_the_source_may_be_a_link(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos", {"ant": 1, "bee": 1})
    (tmp_path / "link").symlink_to(tmp_path / "photos", target_is_directory=True)
    assert len(read_dataset(tmp_path / "link")) == 2


def test_one_broken_photo_never_stops_a_small_set(tmp_path: Path) -> None:
    class_folders(tmp_path, {"ant": 15, "bee": 15})
    put(tmp_path / "ant" / "broken.jpg", b"not a picture")
    dataset = read_dataset(tmp_path)
    assert len(dataset) == 30
    (skipped,) = dataset.skipped
    assert (Path(skipped.path).name, skipped.reason) == ("broken.jpg", "not-image")
    with pytest.raises(DataError, match="at most 0 unreadable"):
        read_dataset(tmp_path, max_skipped=0.0)
    put(tmp_path / "bee" / "empty.heic", b"")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert "2 of 32 (1 not-image, 1 empty)" in str(caught.value)
    assert "broken.jpg" in str(caught.value)
    assert "empty.heic" in str(caught.value)
    assert len(read_dataset(tmp_path, max_skipped=0.1).skipped) == 2
    with pytest.raises(UsageError, match="max_skipped"):
        read_dataset(tmp_path, max_skipped=5)


def test_long_lists_of_offenders_are_cut_and_counted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"ant": 1})
    for i in range(30):
        put(tmp_path / "ant" / f"broken{i:02d}.jpg", b"no")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert str(caught.value).count("broken") == 5
    assert "... and 25 more" in str(caught.value)


def test_strict_skips_what_needs_a_decision(tmp_path: Path) -> None:
    class_folders(tmp_path, {"ant": 3, "bee": 3})
    put(tmp_path / "ant" / "lying.jpg", 60)
    frames = [Image.fromarray(pixels(s)) for s in (70, 71)]
    frames[0].save(tmp_path / "bee" / "moving.gif", save_all=True, append_images=frames[1:])
    loose = read_dataset(tmp_path)
    assert len(loose) == 8
    assert [w.split(":")[0] for w in loose.warnings] == ["first-frame", "wrong-extension"]
    strict = read_dataset(tmp_path, strict=True, max_skipped=0.5)
    assert sorted(s.reason for s in strict.skipped) == ["first-frame", "wrong-extension"]
    assert len(strict) == 6


def collide(root: Path, first: str, second: str) -> None:
    put(root / first / "a.png", 1)
    put(root / second / "b.png", 2)


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda root: None, "a folder with pictures"),
    "texts only": (lambda root: put(root / "a.txt", b"x"), "a folder with pictures"),
    "empty class": (
        lambda root: (class_folders(root, {"ant": 1}), (root / "bee").mkdir()),
        "every class folder.*\n.*bee",
    ),
    "class of broken pictures": (
        lambda root: (class_folders(root, {"ant": 3}), put(root / "bee" / "x.png", b"x")),
        "readable picture of every class.*\n.*bee",
    ),
    "only a broken picture": (lambda root: put(root / "a.png", b""), "1 of 1"),
    "case": (lambda root: collide(root, "Ant", "ant"), "'Ant' and 'ant'"),
    "spaces": (lambda root: collide(root, "red ant", "red  ant"), "red  ant"),
    "unicode": (
        lambda root: collide(root, unicodedata.normalize("NFC", "fée"), unicodedata.normalize("NFD", "fée")),
        r"f\\xe9e.* and |fe\\u0301e.* and ",
    ),
    "one picture, two labels": (
        lambda root: (put(root / "ant" / "a.png", 5), put(root / "bee" / "b.png", 5)),
        "label-conflict(.|\n)*ant/a.png and bee/b.png: 'ant' and 'bee'",
    ),
    "one picture in train and test": (
        lambda root: (
            class_folders(root / "train", {"ant": 2, "bee": 2}),
            class_folders(root / "test", {"ant": 1, "bee": 1}, start=30),
            put(root / "test" / "ant" / "leak.png", 0),
        ),
        "leak-exact(.|\n)*test/ant/leak.png and train/ant/000.png",
    ),
    "pictures beside a table": (
        lambda root: (put(root / "images" / "a.png", 1), put(root / "labels.csv", "image,label\na.png,ant\n")),
        "pass .*labels.csv",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_cannot_be_meant(case: str, tmp_path: Path) -> None:
    build, message = REFUSED[case]
    build(tmp_path)
    with pytest.raises(DataError, match=message):
        read_dataset(tmp_path)


def test_sources_that_are_no_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing there"):
        read_dataset(tmp_path / "none")
    with pytest.raises(DataError, match="pass the folder of the pictures"):
        read_dataset(put(tmp_path / "a.png", 1))
    with pytest.raises(UsageError, match="folder, leaves, metadata, pairs, list, csv, numbered, json, coop"):
        read_dataset(tmp_path, format="webdataset")
    with pytest.raises(DataError, match="what format 'csv' reads"):
        read_dataset(tmp_path, format="csv")
    with pytest.raises(DataError, match="what format 'folder' reads"):
        read_dataset(tmp_path / "a.png", format="folder")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folders(tmp_path, {"ant": 1, "locked": 1})
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)  # permissions do not bind root, who may run this
    with pytest.raises(DataError, match="locked: expected a folder that can be listed"):
        read_dataset(tmp_path)


def test_a_rare_name_one_letter_off_a_common_one_is_mentioned(tmp_path: Path) -> None:
    class_folders(tmp_path, {"robin": 25, "robbin": 1, "robot": 3, "wren": 1})
    assert read_dataset(tmp_path).warnings == ("'robbin' (1 image) may be meant as 'robin' (25 images)",)


def test_renaming_and_moving_leave_the_fingerprint(tmp_path: Path) -> None:
    first = read_dataset(class_folders(tmp_path / "here", {"ant": 2, "bee": 2}))
    (tmp_path / "here" / "ant" / "000.png").rename(tmp_path / "here" / "ant" / "zzz.png")
    (tmp_path / "here").rename(tmp_path / "there")
    second = read_dataset(tmp_path / "there")
    assert second.fingerprint() == first.fingerprint()
    assert second.names != first.names
    put(tmp_path / "there" / "bee" / "new.png", 50)
    assert read_dataset(tmp_path / "there").fingerprint() != first.fingerprint()
