"""How much memory a picture takes while it is decoded, and a limit over all threads that decode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, local

from PIL import Image, ImageFile, JpegImagePlugin, TiffImagePlugin

from clip_fewshot.data.colour import BITS_PER_SAMPLE

PICTURE_MEMORY = 350_000_000  # bytes for one picture, its file included; with the interpreter's 40 MB under 400 MB
DECODE_MEMORY = 1_000_000_000  # bytes for the pictures that all threads decode
COLOUR = 4  # bytes a pixel of Pillow's RGB, RGBA, CMYK, LAB, I and F
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}
# Bytes a pixel that decoders take beside the picture, as measured, by format or codec: WebP keeps two canvases and
# hands over a third; TGA is flipped afterwards.
_BESIDE = {"WEBP": 12, "bcn": 5, "TGA": 4, "SGI": 2, "bmp_rle": 2}
# Freed blocks of Pillow's 16 MB stay in the C library's arena of each thread: 65 pictures of 50 megapixels took 2.4 GB
# in 8 threads, and 1.1 GB in blocks too large for an arena. The pixels do not depend on it.
Image.core.set_block_size(1 << 26)  # type: ignore[attr-defined]
_JPEG2000_SAMPLE = 5  # bytes
# Decoded a value at a time in Python, a microsecond each: a limit of time, not of memory, at 8 million pixels.
_SLOW, _SLOW_CODECS = 40, ("ppm", "ppm_plain", "qoi", "dds_rgb", "SGI16")


class MemoryBudget:
    """Bytes that threads hold for a while; who asks for more than is free waits.

    What a thread holds already counts, so that a thread which holds the most that a picture may take never waits.
    """

    def __init__(self, limit: int) -> None:
        self._free, self._changed, self._held = limit, Condition(), local()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Wait for ``amount`` bytes, at most the limit, and hold them inside the block."""
        before: int = getattr(self._held, "amount", 0)
        more = max(0, amount - before)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= more)
            self._free -= more
        self._held.amount = before + more
        try:
            yield
        finally:
            self._held.amount = before
            with self._changed:
                self._free += more
                self._changed.notify_all()


MEMORY = MemoryBudget(DECODE_MEMORY)


def memory_of(picture: ImageFile.ImageFile, size: int, turned: bool, scale: int = 1) -> int:
    """Bytes to decode ``picture``, of a file of ``size`` bytes, to upright RGB at 1/``scale`` of its sides."""
    pixels = picture.width * picture.height // scale**2
    stored = _STORED.get(picture.mode, COLOUR)
    plain = picture.mode == "RGB" and "transparency" not in picture.info
    decoded = _fixed(picture) + pixels * (stored + _beside(picture))
    converted = pixels * (stored + COLOUR * ((not plain) + turned))
    return size + max(decoded, converted)


def _beside(picture: ImageFile.ImageFile) -> int:
    """Bytes a pixel of the decoder's own."""
    codec = picture.tile[0].codec_name if picture.tile else ""
    bands = len(picture.getbands())
    if codec in _SLOW_CODECS:
        return _SLOW
    if picture.format == "JPEG2000":
        return _JPEG2000_SAMPLE * bands
    if picture.format == "AVIF":
        return 3 * max(3, bands) + 1  # planes of up to 16 bits, and the bytes made of them
    if picture.tile and picture.tile[0].args == "RGB;16B" and "transparency" in picture.info:
        return 2 * COLOUR + 1  # the low bytes, and a mask
    return _BESIDE.get(picture.format or "", _BESIDE.get(codec, 0))


def _fixed(picture: ImageFile.ImageFile) -> int:
    """Bytes that do not shrink with a reduced decode: a progressive JPEG's coefficients, a strip or tile of a TIFF."""
    width, height = picture.size
    if isinstance(picture, JpegImagePlugin.JpegImageFile) and picture.info.get("progressive"):
        across, down = (max(layer[i] for layer in picture.layer) for i in (1, 2))
        return sum(2 * width * height * layer[1] * layer[2] // (across * down) for layer in picture.layer)
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and picture.use_load_libtiff:
        tags = picture.tag_v2
        bits = sum(tags.get(BITS_PER_SAMPLE, (1,)))
        rows = min(tags.get(TiffImagePlugin.ROWSPERSTRIP, height), max(picture.size))
        tile = tags.get(TiffImagePlugin.TILEWIDTH, 0) * tags.get(TiffImagePlugin.TILELENGTH, 0)
        return int(max(tile, rows * max(picture.size)) * bits // 8)
    return 0
