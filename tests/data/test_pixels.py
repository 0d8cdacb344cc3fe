"""Each file is decoded once, in order, and nothing that the cache holds or lacks changes a bit."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image

from clip_fewshot.data import pixels as module
from clip_fewshot.data.collect import collect_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import Geometry, normalise, preprocess, resize_crop
from clip_fewshot.data.picture_kinds import ImageError
from clip_fewshot.data.pixels import pixel_batches
from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.row_cache import ROWS_FILE, RowFile
from tests.data.pictures import FORMATS, encoded, open_image, pixels, put

SIZE = 24


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """20 files: each format, lying and standing, larger and smaller than the square."""
    images = [Image.fromarray(pixels(i, 12 + 3 * i, 50 - i)) for i in range(20)]
    return [put(tmp_path / f"{i:02d}.x", encoded(image, FORMATS[i % 6])) for i, image in enumerate(images)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each picture was opened."""
    count: Counter[str] = Counter()
    original = ImageDataset.opened

    def counting(images: ImageDataset, i: int) -> AbstractContextManager[Image.Image]:
        count[images.digests[i]] += 1
        return original(images, i)

    monkeypatch.setattr(ImageDataset, "opened", counting)
    return count


def whole(batches: Iterator[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.concatenate(list(batches))


@pytest.mark.parametrize("batch", [1, 3, 20, 64])
def test_equal_to_preprocess_to_the_bit_and_in_order(files: list[Path], batch: int) -> None:
    images = collect_images([*files[:7], *map(open_image, files[7:13]), *files[13:]])
    expected = np.stack([preprocess(images.open(i), SIZE) for i in range(len(images))])
    for _ in ("decoded", "from the shelf"):
        batches = list(pixel_batches(images, SIZE, batch=batch))
        assert [len(piece) for piece in batches[:-1]] == [batch] * (len(batches) - 1)
        assert np.array_equal(np.concatenate([normalise(piece) for piece in batches]), expected)


def test_files_are_opened_once_and_pictures_in_memory_every_time(files: list[Path], opened: Counter[str]) -> None:
    memory = [Image.fromarray(pixels(i)) for i in range(3)]
    images = collect_images([*files, *memory])
    first = whole(pixel_batches(images, SIZE))
    assert set(opened.values()) == {1}
    assert np.array_equal(whole(pixel_batches(images.subset(np.arange(len(images))[::-1]), SIZE)), first[::-1])
    assert [opened[digest] for digest in images.digests] == [1] * len(files) + [2] * len(memory)


def test_nothing_is_kept_of_pictures_in_memory(cache: Path) -> None:
    whole(pixel_batches(read_dataset("digits").subset(np.arange(40)), SIZE))
    assert not list(cache.rglob(ROWS_FILE))


def test_a_picture_of_many_rows_is_decoded_once(files: list[Path], opened: Counter[str]) -> None:
    images = collect_images([path for path in files[:4] for _ in range(5)])
    got = whole(pixel_batches(images, SIZE, batch=3))
    assert set(opened.values()) == {1}
    assert np.array_equal(got, np.repeat(whole(pixel_batches(collect_images(files[:4]), SIZE)), 5, axis=0))
    shelf = RowFile("pixels", {"size": SIZE, **module.describe_preparation()}, (SIZE, SIZE, 3), np.uint8)
    assert Path(shelf.path).stat().st_size == 4 * shelf.row_bytes


def test_ways_to_prepare_a_picture_do_not_mix(files: list[Path]) -> None:
    images = collect_images(files)
    for how in (Geometry(SIZE), Geometry(SIZE, squash=True), Geometry(SIZE, SIZE + 2), Geometry(SIZE, floor=True)):
        expected = [np.asarray(resize_crop(images.open(i), how)) for i in range(len(images))]
        assert np.array_equal(whole(pixel_batches(images, how)), np.stack(expected))


def test_sizes_and_releases_of_pillow_do_not_mix(
    files: list[Path], opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = collect_images(files)
    whole(pixel_batches(images, SIZE))
    small = whole(pixel_batches(images, SIZE - 1))
    monkeypatch.setattr(PIL, "__version__", "0")
    whole(pixel_batches(images, SIZE))
    assert set(opened.values()) == {3}
    assert small.shape == (20, SIZE - 1, SIZE - 1, 3)


def test_a_file_that_changed_is_refused_and_not_kept(files: list[Path]) -> None:
    images = collect_images(files)
    before = files[17].read_bytes()
    files[17].write_bytes(encoded(Image.fromarray(pixels(99)), "PNG"))
    batches = pixel_batches(images, SIZE, batch=8)
    next(batches), next(batches)
    with pytest.raises(DataError, match=files[17].name):
        next(batches)
    files[17].write_bytes(before)
    held = RowFile("pixels", {"size": SIZE, **module.describe_preparation()}, (SIZE, SIZE, 3), np.uint8).find(
        images.digests
    )
    assert np.array_equal(held >= 0, np.arange(20) < 16)
    expected = [preprocess(images.open(i), SIZE) for i in range(20)]
    assert np.array_equal(normalise(whole(pixel_batches(images, SIZE))), expected)


def test_a_broken_picture_is_an_image_error(tmp_path: Path) -> None:
    images = collect_images([put(tmp_path / "a.png", encoded(Image.fromarray(pixels(0)), "PNG")[:500])])
    with pytest.raises(ImageError) as caught:
        list(pixel_batches(images, SIZE))
    assert caught.value.reason == "truncated"


def test_work_ahead_is_bounded_and_ends_with_the_reader(
    files: list[Path], opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AHEAD", 4)
    batches = pixel_batches(collect_images(files), SIZE, batch=2)
    next(batches)
    batches.close()
    assert 2 <= opened.total() <= 2 + 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    whole(pixel_batches(collect_images(files[:2]), SIZE))
    assert max(opened.values()) == 1  # what was delivered was kept


def test_a_disk_that_refuses_is_asked_once(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    images = collect_images(files)
    expected = whole(pixel_batches(images, SIZE))
    asked: list[int] = []
    monkeypatch.setattr(RowFile, "append", lambda self, keys, rows: bool(asked.append(len(keys))))
    monkeypatch.setattr(RowFile, "find", lambda self, keys: np.full(len(keys), -1))
    assert np.array_equal(whole(pixel_batches(images, SIZE, batch=5)), expected)
    assert asked == [5]


def test_damaged_rows_are_decoded_again(files: list[Path], cache: Path, opened: Counter[str]) -> None:
    images = collect_images(files)
    expected = whole(pixel_batches(images, SIZE))
    (rows,) = cache.rglob(ROWS_FILE)
    data = bytearray(rows.read_bytes())
    data[SIZE * SIZE * 3 * 5 + 7] ^= 1
    rows.write_bytes(data)
    assert np.array_equal(whole(pixel_batches(images, SIZE)), expected)
    assert sorted(opened.values()) == [1] * 19 + [2]


def test_nothing_in_nothing_out() -> None:
    assert list(pixel_batches(collect_images([]), SIZE)) == []


@pytest.mark.parametrize("wrong", [{"size": 0}, {"batch": 0}])
def test_wrong_arguments_are_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        pixel_batches(collect_images([]), **{"size": SIZE, **wrong})  # type: ignore[arg-type]
