"""Files to pixels: Pillow as OpenAI's preprocessing calls it, against our workers and cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pixels import pixel_batches
from clip_fewshot.data.read import read_dataset
from experiments.benchmark.isolation import empty_cache
from experiments.benchmark.options import Options
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import picture_folder
from experiments.benchmark.timing import WHOLE, Side, Watch, interleave

SIDE = 224
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sizes:
    """``shapes``: (width, height) of the files, and how many of each."""

    shapes: tuple[tuple[int, int, int], ...] = ((500, 375, 64), (1600, 1200, 16))


def rows(options: Options, sizes: Sizes | None = None) -> Iterator[Row]:
    """Pictures of several sizes: Pillow alone, the exact way, the fast way, the cache."""
    for width, height, count in (sizes or Sizes()).shapes:
        with picture_folder(1, count, options.seed, (width, height)) as folder:
            yield from measure(read_dataset(folder), f"JPEG {height} x {width}", options)


def measure(images: ImageDataset, what: str, options: Options) -> Iterator[Row]:
    """All ways on one folder of pictures, in turns."""
    found: dict[str, Pixels] = {}
    paths = [path for path in images.images if isinstance(path, Path)]

    def side(name: str, make: Callable[[], Pixels], fresh: bool) -> Side:
        def work(watch: Watch) -> None:
            if not fresh:  # what the warm-up left in the cache of the whole case answers
                found[name] = make()
                return
            with empty_cache():
                found[name] = make()

        return Side(work, len(images))

    sides = {
        "naive": side("naive", lambda: np.stack([plain(path) for path in paths]), True),
        "exact": side("exact", lambda: ours(images), True),
        "from the cache": side("from the cache", lambda: ours(images), False),
    }
    times = interleave(sides, options.repeats)
    note = (
        "Plain way: Pillow's decoder, bicubic resize, centre crop; up to the bytes of the square. Ours computes the "
        "SHA-256 of each file as well, and keeps the square on disk."
    )
    for name in ("exact", "from the cache"):
        levels = np.abs(found[name].astype(np.int16) - found["naive"].astype(np.int16)).max()
        check = Check("grey levels apart", float(levels), 0.0)
        yield Row(f"{what}, {name}", "picture", times[name][WHOLE], times["naive"][WHOLE], None, (check,), note)


def ours(images: ImageDataset) -> Pixels:
    """(n, SIDE, SIDE, 3)."""
    return np.concatenate(list(pixel_batches(images, SIDE)))


def plain(path: Path) -> Pixels:
    """OpenAI's preprocessing up to the tensor: short side to SIDE, centre square."""
    with Image.open(path) as picture:
        image = picture.convert("RGB")
    short = min(image.size)
    width, height = (int(SIDE * side / short) for side in image.size)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))
