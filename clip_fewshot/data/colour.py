"""Any picture mode to 8-bit RGB without losing what the numbers meant.

Pillow's own ``convert("RGB")`` is right for 8-bit pictures only: it clips 16-bit grey to white, takes floats for
0..255, and drops the alpha channel so that hidden colours show. Each of those is handled here before it converts, some
rows at a time: a whole copy in wider numbers would be the largest thing in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

# TIFF 6.0: tags, and values of them.
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO, SIGNED_FORMAT = 0, 2
WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")
STRIP = 1 << 17  # pixels converted at once; in wider numbers they fit into a processor's cache

Box = tuple[int, int, int, int]


class ValueRangeError(ValueError):
    """Numbers outside the range that their type gives a meaning to."""


class _Depth(NamedTuple):
    """What the numbers of a grey picture mean: ``bits`` of them count, and white may be zero."""

    bits: int
    signed: bool
    inverted: bool


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` as RGB: deep integers scaled by their declared depth, floats by [0, 1], alpha laid on white.

    Raises:
        ValueRangeError: floats beyond [0, 1], negative integers, integers of unknown depth.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    depth = _depth_of(image)
    if depth is not None:
        return _grey(image, depth)
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        if image.mode == "RGB" and max(image.info["transparency"]) > 255:
            raise ValueRangeError("a transparent colour of 16 bits, of a picture whose colours Pillow has cut to 8")
        return _on_white(image)
    return image.convert("RGB")


def _depth_of(image: Image.Image) -> _Depth | None:
    """None where Pillow's modes say it all. For mode ``I`` the header decides; Pillow scales Netpbm to 16 bits."""
    tags = getattr(image, "tag_v2", {})
    bits, signed = int(tags.get(BITS_PER_SAMPLE, (16,))[0]), tags.get(SAMPLE_FORMAT, (1,))[0] == SIGNED_FORMAT
    inverted = bool(tags) and tags.get(PHOTOMETRIC, WHITE_IS_ZERO) == WHITE_IS_ZERO
    if image.mode == "L" and signed:
        return _Depth(8, True, False)
    if image.mode == "I" and not tags and image.format != "PPM":
        raise ValueRangeError("integers of mode I in memory, which do not tell what white is")
    return _Depth(bits, signed, inverted) if image.mode == "F" or image.mode.startswith("I") else None


def _grey(image: Image.Image, depth: _Depth) -> Image.Image:
    rgb, key = Image.new("RGB", image.size), image.info.get("transparency")
    for box in _strips(image.size):
        values = np.asarray(image.crop(box))
        grey = _unit_floats(values, depth) if image.mode == "F" else _unit_integers(values, depth)
        if key is not None:
            grey[values == key] = 255
        rgb.paste(Image.fromarray(grey), box)
    return rgb


def _unit_floats(values: NDArray[np.floating], depth: _Depth) -> NDArray[np.uint8]:
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ValueRangeError(f"floats from {values.min():g} to {values.max():g} instead of [0, 1]")
    exact = values.astype(np.float64)
    return np.minimum((1 - exact if depth.inverted else exact) * 256, 255).astype(np.uint8)


def _unit_integers(values: NDArray[np.integer], depth: _Depth) -> NDArray[np.uint8]:
    """Rounding down as a shift does, so that 16 bits lose only their low byte."""
    if depth.bits == 32 and not depth.signed:
        values = values.astype(np.int32).view(np.uint32)
    numbers = (values.view(np.int8) if depth.bits == 8 else values).astype(np.int64)
    if numbers.min() < 0:
        raise ValueRangeError(f"negative integers, the least {numbers.min()}")
    white = 2 ** (depth.bits - depth.signed) - 1
    scaled: NDArray[np.int64] = (white - numbers if depth.inverted else numbers) * 256 // white
    return np.minimum(scaled, 255).astype(np.uint8)


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    rgb = Image.new("RGB", image.size)
    for box in _strips(image.size):
        rgb.paste(transform.apply(image.crop(box)), box)
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    rgb = Image.new("RGB", image.size)
    for box in _strips(image.size):
        part = image.crop(box)
        layer = (part.convert("LA") if image.mode == "La" else part).convert("RGBA")
        rgb.paste(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"), box)
    return rgb


def _strips(size: tuple[int, int]) -> Iterator[Box]:
    width, height = size
    rows = max(1, STRIP // width)
    return ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))
