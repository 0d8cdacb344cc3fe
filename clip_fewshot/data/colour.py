"""Any picture mode to 8-bit RGB without losing what the numbers meant.

Pillow's own ``convert("RGB")`` is right for 8-bit pictures only: it clips 16-bit grey to white, takes floats for
0..255, and drops the alpha channel so that hidden colours show. Each of those is handled here before it converts.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms

from clip_fewshot.types import FloatArray

BITS_PER_SAMPLE, SAMPLE_FORMAT, SIGNED_FORMAT = 258, 339, 2  # TIFF 6.0 tags, and the format value for signed integers
WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")


class ValueRangeError(ValueError):
    """Numbers outside the range that their type gives a meaning to."""


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` as RGB: deep integers scaled by their declared depth, floats by [0, 1], alpha laid on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        return _grey(_unit_floats(np.asarray(image, dtype=np.float64)))
    if image.mode.startswith("I"):
        return _grey(_unit_integers(image))
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        return image if converted is None else converted
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _unit_floats(values: FloatArray) -> FloatArray:
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ValueRangeError(f"floats from {values.min():g} to {values.max():g} instead of [0, 1]")
    return values


def _unit_integers(image: Image.Image) -> FloatArray:
    """Integers of the declared depth -> [0, 1]. ``I;16*`` is always unsigned; for mode ``I`` the TIFF tags decide."""
    if image.mode != "I":
        return np.asarray(image).astype(np.float64) / 65535
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(BITS_PER_SAMPLE, (32,))[0])
    signed = int(tags.get(SAMPLE_FORMAT, (1,))[0]) == SIGNED_FORMAT
    numbers = np.asarray(image, dtype=np.int32)
    values = (numbers if signed or bits < 32 else numbers.view(np.uint32)).astype(np.float64)
    if values.min() < 0:
        raise ValueRangeError(f"negative integers, the least {values.min():g}")
    return values / (2.0 ** (bits - signed) - 1)


def _grey(values: FloatArray) -> Image.Image:
    """[0, 1] -> 8 bits. Rounding down as a shift by 8 bits does, so that 16 bits lose only their low byte."""
    return Image.fromarray(np.minimum(values * 256, 255).astype(np.uint8)).convert("RGB")
