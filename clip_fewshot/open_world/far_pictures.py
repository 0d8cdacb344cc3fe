"""Pictures that are far from every class, made at run time: nothing is downloaded, nothing is shipped.

At most 64 of each use go through the frozen layers once, and then stand in the cache.
Broken copies of the support pictures keep their colours and lose what is to be seen. They help to choose a detector.
Letters and patterns are measured alone: what helped to choose would flatter the choice.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from clip_fewshot.data.collect import collect_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import resize_crop
from clip_fewshot.runtime import rng
from clip_fewshot.types import FloatArray

FAR_COPIES, FAR_KINDS = 32, 2  # pictures of each kind; kinds
UNLIKE_DIGITS = "ABCDEFGHJKLMNPRTUVWXYZ"  # those that are no digit either
FAR_SIDE, TILES = 96, 4  # pixels; tiles along a side: fewer leave whole parts of a thing, more leave noise
BLUR = FAR_SIDE / 8  # pixels of a Gaussian's deviation: colours remain, outlines do not


def copy_broken(images: ImageDataset, seed: int) -> ImageDataset:
    """Copies of at most FAR_COPIES pictures, all scrambled (tiles shuffled), then as many blurred."""
    draw = rng.generator(seed, "far pictures")
    rows = np.sort(draw.permutation(len(images))[:FAR_COPIES])
    squares = [resize_crop(images.open(int(i)), FAR_SIDE) for i in rows]
    scrambled = [_scramble(square, draw) for square in squares]
    blurred = [square.filter(ImageFilter.GaussianBlur(BLUR)) for square in squares]
    return collect_images([*scrambled, *blurred])


def draw_strangers(seed: int) -> ImageDataset:
    """FAR_COPIES letters in grey on grey, then FAR_COPIES patterns (waves, checks, clouds)."""
    draw = rng.generator(seed, "strangers")
    letters = [_draw_letter(draw) for _ in range(FAR_COPIES)]
    patterns = [_draw_pattern(i, draw) for i in range(FAR_COPIES)]
    return collect_images([*letters, *patterns])


def _scramble(square: Image.Image, draw: np.random.Generator) -> Image.Image:
    side = FAR_SIDE // TILES
    tiles = np.asarray(square).reshape(TILES, side, TILES, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    tiles = tiles[draw.permutation(len(tiles))].reshape(TILES, TILES, side, side, 3)
    return Image.fromarray(tiles.swapaxes(1, 2).reshape(FAR_SIDE, FAR_SIDE, 3))


def _draw_letter(draw: np.random.Generator) -> Image.Image:
    ground = int(draw.integers(256))
    ink = (ground + int(draw.integers(96, 160))) % 256
    letter, size = UNLIKE_DIGITS[int(draw.integers(len(UNLIKE_DIGITS)))], int(draw.integers(FAR_SIDE // 2, FAR_SIDE))
    picture = Image.new("RGB", (FAR_SIDE, FAR_SIDE), (ground,) * 3)
    font = ImageFont.load_default(size)  # the one that Pillow ships
    ImageDraw.Draw(picture).text((FAR_SIDE / 2, FAR_SIDE / 2), letter, fill=(ink,) * 3, font=font, anchor="mm")
    return picture


def _draw_pattern(i: int, draw: np.random.Generator) -> Image.Image:
    """Waves, checks, clouds in turn, between two colours."""
    y, x = np.mgrid[:FAR_SIDE, :FAR_SIDE] / FAR_SIDE
    across, down = draw.uniform(3, 12, 2)
    shares: FloatArray = (
        np.sin(2 * np.pi * (across * x + down * y)) / 2 + 0.5,
        (np.floor(across * x) + np.floor(down * y)) % 2,
        np.asarray(Image.fromarray(np.uint8(draw.uniform(0, 256, (8, 8)))).resize((FAR_SIDE, FAR_SIDE))) / 255,
    )[i % 3][..., None]
    first, second = draw.uniform(0, 255, (2, 3))
    return Image.fromarray(np.uint8(first + (second - first) * shares))
