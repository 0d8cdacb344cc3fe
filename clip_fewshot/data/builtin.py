"""Real pictures that need no download: scikit-learn's digit scans, clean and in the wild.

The scans are the test part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998:
1,797 digits of 13 writers, 8 x 8 pixels in 17 grey levels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import pixel_digest, resize_crop
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, LabelSpace

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
GREY_LEVELS = 16  # the scans count ink in cells of 4 x 4 pixels: 0..16
BORDER = 1  # black pixels around a scan: the digits touch its frame
CANVAS = 32  # pixels; side of a wild picture and of the thumbnails of the raw-pixel baseline
LEAST_CONTRAST = 0.35  # of luminance between ink and any point of the background
WILD_SEED = 0  # part of the data, not of an experiment


@lru_cache(maxsize=1)
def digits() -> ImageDataset:
    """The scans, white on black, 10 x 10 with their border; classes ``zero`` to ``nine``."""
    ink, labels = _scans()
    grey = np.pad(np.rint(ink * 255).astype(np.uint8), ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
    return _in_memory("digits", [Image.fromarray(picture).convert("RGB") for picture in grey], labels)


@lru_cache(maxsize=1)
def wild_digits() -> ImageDataset:
    """The same scans on 32 x 32 colour pictures.

    Place, size, polarity, colours and background vary, each by a generator of its own, so that a single pixel says
    nothing about the digit while a person still reads it.
    """
    ink, labels = _scans()
    pictures = [_in_the_wild(scan, generator(WILD_SEED, "digits-wild", i)) for i, scan in enumerate(ink)]
    return _in_memory("digits-wild", pictures, labels)


BUILTIN: dict[str, Callable[[], ImageDataset]] = {"digits": digits, "digits-wild": wild_digits}


def raw_pixels(dataset: ImageDataset) -> FloatArray:
    """(n, p) values in [0, 1] for the baseline that knows pixels only.

    The clean digits give their 64 inner grey values; any other set gives 32 x 32 RGB thumbnails, p = 3072.
    """
    if dataset.name == "digits":
        inner = slice(BORDER, -BORDER)
        rows = [np.asarray(dataset.open(i))[inner, inner, 0].ravel() for i in range(len(dataset))]
    else:
        rows = [np.asarray(resize_crop(dataset.open(i), CANVAS)).ravel() for i in range(len(dataset))]
    return np.stack(rows).astype(np.float64) / 255


def _scans() -> tuple[FloatArray, NDArray[np.int64]]:
    """(1797, 8, 8) ink in [0, 1] and (1797,) digits."""
    scans = load_digits()
    return scans.images / GREY_LEVELS, scans.target.astype(np.int64)


def _in_memory(name: str, pictures: list[Image.Image], labels: NDArray[np.int64]) -> ImageDataset:
    return ImageDataset(
        name=name,
        images=tuple(pictures),
        names=tuple(f"{name}/{i:04d}" for i in range(len(pictures))),
        labels=labels,
        label_space=LabelSpace(DIGIT_NAMES),
        captions=None,
        partition=("",) * len(pictures),
        digests=tuple(pixel_digest(picture) for picture in pictures),
    )


def _in_the_wild(scan: FloatArray, rng: np.random.Generator) -> Image.Image:
    background, ink = _legible_colours(rng)
    cover = _placed(scan, rng)[..., None]
    return Image.fromarray(np.rint((background * (1 - cover) + ink * cover) * 255).astype(np.uint8))


def _legible_colours(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """(32, 32, 3) background and (3,) ink, drawn together until the ink stands out from every point."""
    while True:
        background, ink = _background(rng), rng.uniform(0, 1, size=3)
        if np.abs(_luminance(background) - _luminance(ink)).min() > LEAST_CONTRAST:
            return background, ink


def _background(rng: np.random.Generator) -> FloatArray:
    """(32, 32, 3): a gradient between two colours of like lightness under a soft, coarse texture."""
    base = rng.uniform(0.0, 1.0)  # lightness: dark and light grounds are equally likely, so polarity varies
    colours = np.clip(base + rng.uniform(-0.22, 0.22, size=(2, 3)), 0, 1)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:CANVAS, 0:CANVAS] / (CANVAS - 1) - 0.5
    ramp = np.clip(0.5 + (x * np.cos(angle) + y * np.sin(angle)), 0, 1)[..., None]
    cells = int(rng.integers(4, 17))
    texture = _enlarged(rng.uniform(-1, 1, size=(cells, cells)), CANVAS)[..., None] * rng.uniform(0.0, 0.09)
    ground: FloatArray = colours[0] * (1 - ramp) + colours[1] * ramp + texture
    return np.clip(ground, 0, 1)


def _placed(scan: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(32, 32) share of ink: the scan enlarged to 14..26 pixels somewhere on the canvas."""
    side = int(rng.integers(14, 27))
    top, left = rng.integers(0, CANVAS - side + 1, size=2)
    cover = np.zeros((CANVAS, CANVAS))
    cover[top : top + side, left : left + side] = _enlarged(scan, side)
    return np.clip(cover, 0, 1)


def _enlarged(values: FloatArray, side: int) -> FloatArray:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)


def _luminance(colours: FloatArray) -> FloatArray:
    return np.asarray(colours @ np.array([0.299, 0.587, 0.114]))
