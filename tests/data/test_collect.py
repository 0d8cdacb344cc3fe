"""Pictures named by path or folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from clip_fewshot.data.collect import read_images
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
