"""What stands beside the pixels of files that the test writes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.traces import read_traces


def picture(seed: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def test_size_format_camera_date_and_place_are_read(tmp_path: Path) -> None:
    for name in ("hive/bees", "hive/ants"):
        (tmp_path / "train" / name.split("/")[1]).mkdir(parents=True)
    exif = Image.Exif()
    exif[271], exif[272], exif[306] = "Acme", "One", "2024:03:01 10:00:00"
    picture(0).save(tmp_path / "train/bees/IMG_0017.jpg", quality=30, exif=exif)
    picture(1).save(tmp_path / "train/ants/a.png")
    data = read_dataset(tmp_path)
    traces = {data.names[i]: {name: values[i] for name, values in read_traces(data).items()} for i in range(2)}
    bee, ant = (next(row for name, row in traces.items() if word in name) for word in ("bees", "ants"))
    assert (bee["width"], bee["height"], bee["format"], bee["mode"]) == (24, 16, "JPEG", "RGB")
    assert (bee["camera"], bee["name"], bee["folder"]) == ("Acme One", "IMG_", None)  # class and side are no trace
    assert bee["bytes"] == (tmp_path / "train/bees/IMG_0017.jpg").stat().st_size
    assert bee["day"] == 738946
    assert (ant["format"], ant["camera"], ant["day"], ant["jpeg table"]) == ("PNG", None, None, None)
    assert bee["jpeg table"] > 1000


def test_the_folders_of_a_class_tell_nothing_whatever_it_is_called_later(tmp_path: Path) -> None:
    for seed, folder in enumerate((os.fsencode("n01"), b"caf\xe9", b"bird/owl", b"bird/wren")):
        place = Path(os.fsdecode(bytes(tmp_path) + b"/" + folder))
        place.mkdir(parents=True)
        picture(seed).save(place / "a.png")
    for names in (None, ["hooter", "singer", "coffee", "tench"]):
        assert read_traces(read_dataset(tmp_path, format="leaves", class_names=names))["folder"] == [None] * 4
    assert {*read_traces(read_dataset(tmp_path, classes_at=1))["folder"]} == {None, "owl", "wren"}


def test_pictures_in_memory_have_a_size_and_broken_exif_costs_nothing_else(tmp_path: Path) -> None:
    assert set(read_traces(read_dataset("digits").subset(np.arange(3)))["width"]) == {10}
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        picture(2).save(tmp_path / name / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
        picture(3 + ord(name)).save(tmp_path / name / "y.jpg")
    (tmp_path / "b" / "x.jpg").unlink()
    assert None not in read_traces(read_dataset(tmp_path))["bytes"]
