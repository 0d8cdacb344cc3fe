"""The fast resize: one grey level at most from the exact one, on pictures chosen to make that hard."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from clip_fewshot.data.fast import resize_crop_fast
from clip_fewshot.data.image import decode, frame, open_image, resize_crop
from tests.data.pictures import encoded

KINDS = ("noise", "black and white", "stripes over a plain", "blocks")


def picture(kind: str, seed: int, height: int, width: int) -> Image.Image:
    """Noise and sharp edges of full contrast: much overshoot to clip, many sums near a half."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "black and white":
        values = np.where(values > 127, np.uint8(255), np.uint8(0))
    elif kind == "stripes over a plain":
        values[:] = values[:1]
        values[height // 2 :] = rng.integers(0, 256, 3)
    elif kind == "blocks":
        values = np.kron(values[::5, ::5] // 128 * 255, np.ones((5, 5, 1), np.uint8))[:height, :width]
    return Image.fromarray(values)


def distance(image: Image.Image, size: int, fast: NDArray[np.uint8]) -> int:
    assert fast.shape == (size, size, 3)
    assert fast.dtype == np.uint8
    return int(np.abs(np.asarray(resize_crop(image, size)).astype(int) - fast).max())


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    width=st.integers(8, 420),
    height=st.integers(8, 420),
    size=st.sampled_from([16, 64, 97, 224]),
)
@example("blocks", 300, 601, 64)  # from twice its width on, Pillow 13 resamples the columns first
@example("blocks", 300, 600, 64)
@example("noise", 224, 224, 224)
@example("noise", 8, 420, 16)
@example("noise", 420, 8, 16)
def test_one_grey_level_at_most(kind: str, width: int, height: int, size: int) -> None:
    image = picture(kind, width * 1000 + height, height, width)
    assert distance(image, size, resize_crop_fast(image, size)) <= 1


def test_torch_alone_would_not_keep_the_bound() -> None:
    """So the pictures are hard enough to tell, and the first step has to be Pillow's."""
    worst = 0
    for seed in range(12):
        image = picture("noise", seed, 150, 200)
        width, height, left, top = frame(200, 150, 224)
        planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        both = F.interpolate(planes, (height, width), mode="bicubic", antialias=True)[0].permute(1, 2, 0).numpy()
        worst = max(worst, distance(image, 224, both[top : top + 224, left : left + 224]))
        assert distance(image, 224, resize_crop_fast(image, 224)) <= 1
    assert worst > 1


@pytest.mark.parametrize(("mode", "format"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG")])
def test_modes(mode: str, format: str) -> None:
    image = decode(encoded(picture("blocks", 0, 91, 130).convert(mode), format), "a").image
    assert distance(image, 64, resize_crop_fast(image, 64)) <= 1


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("CLIP_FEWSHOT_REALDATA"), reason="CLIP_FEWSHOT_REALDATA names no folder")
def test_real_photos() -> None:
    photos = sorted(Path(os.environ["CLIP_FEWSHOT_REALDATA"]).rglob("*.jpg"))[::4]
    assert len(photos) > 100
    for path in photos:
        image = open_image(path)
        assert distance(image, 224, resize_crop_fast(image, 224)) <= 1, path
