"""Features and pictures that are cheap to make and shaped like real ones."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_fewshot.runtime.files import write_bytes
from clip_fewshot.runtime.rng import generator


class Features(NamedTuple):
    """(n, d) float32 rows of length 10, which is about that of CLIP's, and (n,) labels."""

    X: NDArray[np.float32]
    y: NDArray[np.int64]

    def unit(self) -> NDArray[np.float32]:
        """Rows of unit length."""
        return np.asarray(self.X / np.linalg.norm(self.X, axis=1, keepdims=True))


def clip_like(
    classes: int, per_class: int, width: int, seed: int, part: str = "train", apart: float = 0.35
) -> Features:
    """A mean that all rows share, classes around it, noise; the variance of both falls as 1 / i along some axes.

    With 100 classes of 16 rows of width 512 a probe gets about .96 right, and scikit-learn's solver needs up to 50
    steps, as on photos; with equal variance along all axes it needs 15, and any penalty does.

    Args:
        part: names a draw; classes and axes of all draws under one seed are the same.
        apart: of the classes, in units of the noise.
    """
    axes = np.linalg.qr(generator(seed, "axes").standard_normal((width, width)))[0]
    spread = np.arange(1, width + 1.0) ** -0.5
    spread /= np.sqrt((spread**2).mean())
    centres = generator(seed, "classes").standard_normal((classes + 1, width))
    y = np.repeat(np.arange(classes), per_class)
    noise = generator(seed, "noise", part).standard_normal((len(y), width))
    X = (apart * centres[y] + noise) * spread @ axes.T + 2.0 * centres[-1]  # cosines of two rows: about .8
    return Features((10 * X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), y)


def pictures(folder: Path, classes: int, per_class: int, seed: int, size: tuple[int, int] = (500, 375)) -> None:
    """JPEG files of about 80 kB (at 500 x 375), a folder per class: stripes that tell the class, clouds, grain."""
    width, height = size
    grain = generator(seed, "grain").normal(0, 12, (height, width, 3)).astype(np.float32)
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    for label in range(classes):
        angle, waves = np.pi * label / classes, 4 + 3 * (label % 5)
        stripes = 40 * np.sin(2 * np.pi * waves * (across * np.cos(angle) + down * np.sin(angle)))[..., None]
        for number in range(per_class):
            draw = generator(seed, "picture", label, number)
            clouds = Image.fromarray(draw.integers(40, 215, (6, 8, 3), dtype=np.uint8))
            smooth = np.asarray(clouds.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
            pixels = smooth + stripes + np.roll(grain, draw.integers(height), axis=0)
            file = io.BytesIO()
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
            write_bytes(folder / f"class {label:04d}" / f"{number:04d}.jpg", file.getvalue())


@contextmanager
def picture_folder(classes: int, per_class: int, seed: int, size: tuple[int, int] = (500, 375)) -> Iterator[Path]:
    """A folder of :func:`pictures` while the block lasts."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        pictures(folder, classes, per_class, seed, size)
        yield folder
