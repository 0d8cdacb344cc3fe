"""Pictures named by path or folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas
import pytest
from PIL import Image

from clip_fewshot.data.collect import collect_images, list_warnings, read_images
from clip_fewshot.data.dataset import SkippedImage
from clip_fewshot.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place in ("a.png", "deep/er/b.png", "deep/c.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (len(place), 0, 0)).save(tmp_path / place)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "deep" / "empty.jpg").touch()
    return tmp_path


def test_files_and_whole_folders_in_the_order_given_each_once(folder: Path) -> None:
    found = read_images([folder / "deep", folder / "a.png", str(folder)])
    assert [Path(name).relative_to(folder).as_posix() for name in found.names] == [
        "deep/c.png",
        "deep/er/b.png",
        "a.png",
    ]
    assert found.labels is None
    assert found.open(2).getpixel((0, 0)) == (len("a.png"), 0, 0)


def test_what_cannot_be_read_is_listed_by_reason(folder: Path) -> None:
    found = read_images([folder, folder / "nowhere.png", folder / "notes.txt"])
    reasons = {Path(path).name: reason for path, reason, _ in found.skipped}
    assert reasons == {"empty.jpg": "empty", "nowhere.png": "missing", "notes.txt": "not-image"}
    assert len(found) == 3


def test_nothing_to_read_is_refused_with_every_reason(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 that cannot be read:\n  \[missing\]"):
        read_images([folder / "nowhere.png"])
    (tmp_path / "hollow").mkdir()
    with pytest.raises(DataError, match="folders without pictures"):
        read_images([tmp_path / "hollow"])


def test_a_picture_in_memory_is_what_its_file_shows(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    palettes = [Image.new("P", (16, 24), 1) for _ in range(2)]
    for i, picture in enumerate(palettes):
        picture.putpalette([0, 0, 0, 100 * i, 50, 0])
        picture.save(tmp_path / f"{i}.png", exif=exif)
    places = [tmp_path / "0.png", tmp_path / "1.png"]
    with Image.open(places[0]) as first, Image.open(places[1]) as second:
        objects = collect_images(image for image in (first, second))  # type: ignore[arg-type]
    paths = collect_images(places)
    assert [objects.open(i).size for i in (0, 1)] == [(24, 16)] * 2
    assert [objects.open(i).tobytes() for i in (0, 1)] == [paths.open(i).tobytes() for i in (0, 1)]
    assert objects.digests[0] != objects.digests[1]  # the same numbers under two palettes
    with pytest.raises(DataError, match=r"image 1: .*floats"):
        collect_images([palettes[0], Image.new("F", (16, 16), 7)])


def test_a_table_stands_for_its_column_of_pictures(folder: Path) -> None:
    paths = sorted(map(str, folder.rglob("*.png")))
    frame = pandas.DataFrame({"n": range(len(paths)), "path": paths})
    assert collect_images(frame).names == tuple(paths)
    assert collect_images(frame["path"]).names == tuple(paths)  # one column of it is a list


def test_unreadable_pictures_are_said_with_the_first_by_name() -> None:
    skipped = tuple(SkippedImage(f"{i}.heic", "unsupported", "HEIC") for i in range(2))
    assert "2 unreadable pictures: unsupported, the first: 0.heic (HEIC)" in list_warnings(
        replace(collect_images([Image.new("L", (8, 8))]), skipped=skipped)
    )
