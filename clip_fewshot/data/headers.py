"""What Pillow takes wrongly from a picture's header: put right before the pixels are decoded, or refused."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

from PIL import Image, ImageFile, ImagePalette, Jpeg2KImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin

from clip_fewshot.data.colour import BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT, WHITE_IS_ZERO

# TIFF 6.0 and DNG: tags, and values of them.
NEW_SUBFILE_TYPE, FILL_ORDER, SAMPLES_PER_PIXEL, PLANAR, COLOUR_MAP = 254, 266, 277, 284, 320
SUB_IFDS, EXTRA_SAMPLES, SUBSAMPLING, DNG_VERSION = 330, 338, 530, 50706
RGB, REDUCED, SEPARATE = 2, 1, 2
GREY_TYPE, RGB_TYPE = 0, 2  # PNG's colour types
CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000: its start and its first segment
END_OF_CODESTREAM = b"\xff\xd9"


class UnsupportedError(ValueError):
    """A sound picture that Pillow cannot decode to the right pixels, and what can read it."""

    def __init__(self, what: str, reader: str) -> None:
        super().__init__(what)
        self.reader = reader


def mend_header(picture: ImageFile.ImageFile, data: bytes) -> None:
    """Correct what Pillow misread in the header of ``picture``, whose file is ``data``.

    Raises:
        UnsupportedError: the pixels would be wrong.
        ValueError: two headers that contradict each other.
    """
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        _mend_tiff(picture)
    elif isinstance(picture, PngImagePlugin.PngImageFile):
        _scale_key(picture, data[24], data[25])
    elif isinstance(picture, Jpeg2KImagePlugin.Jpeg2KImageFile):
        _check_codestream(picture, data)
    elif isinstance(picture, PpmImagePlugin.PpmImageFile) and picture.info.get("scale", 1) != 1:
        # Netpbm divides by it, Debevec's definition multiplies.
        raise UnsupportedError(f"floats with a scale of {picture.info['scale']:g}", "imageio")


def _check_codestream(picture: Jpeg2KImagePlugin.Jpeg2KImageFile, data: bytes) -> None:
    """The decoder takes the size from the codestream, negative values for dark ones, and what is missing for grey."""
    start = data.index(CODESTREAM) + 8
    if END_OF_CODESTREAM not in data[start:]:  # two bytes that occur in no packet before it
        raise ValueError("a truncated codestream")
    right, bottom, left, top = struct.unpack_from(">4I", data, start)
    if (right - left, bottom - top) != picture.size:
        raise ValueError(f"{right - left} x {bottom - top} pixels under a header of {picture.size}")
    samples = data[start + 34 :: 3][: int.from_bytes(data[start + 32 : start + 34], "big")]
    if any(sample & 128 for sample in samples):
        raise UnsupportedError("signed samples", "imagecodecs")


def _scale_key(picture: PngImagePlugin.PngImageFile, bits: int, colour: int) -> None:
    """Pillow scales grey of 1, 2 and 4 bits to 8, but not the grey that means transparent."""
    key = picture.info.get("transparency")
    if colour == GREY_TYPE and bits in (2, 4, 8):
        if key is not None:
            picture.info["transparency"] = (key & (2**bits - 1)) * 255 // (2**bits - 1)
    elif colour == RGB_TYPE and bits == 8 and key is not None:
        picture.info["transparency"] = tuple(value & 255 for value in key)


def clear_deep_key(picture: ImageFile.ImageFile, data: bytes) -> None:
    """Paint white what has the transparent colour of a 16-bit RGB PNG: of each sample Pillow keeps the high byte."""
    if not isinstance(picture, PngImagePlugin.PngImageFile) or (data[24], data[25]) != (16, RGB_TYPE):
        return
    key = picture.info.pop("transparency", None)
    if key is None:
        return
    low = PngImagePlugin.PngImageFile(io.BytesIO(data))
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # the other byte order: the low byte comes
    low.load()
    mask = Image.new("1", picture.size, 1)
    for half, values in ((picture, [v >> 8 for v in key]), (low, [v & 255 for v in key])):
        for band, value in zip(half.split(), values, strict=True):
            mask.paste(0, mask=band.point([0 if i == value else 255 for i in range(256)], "1"))
    picture.paste((255, 255, 255), mask=mask)


def _mend_tiff(picture: TiffImagePlugin.TiffImageFile) -> None:
    tags = picture.tag_v2
    preview = tags.get(NEW_SUBFILE_TYPE, 0) & REDUCED and (picture.is_animated or SUB_IFDS in tags)
    if preview or DNG_VERSION in tags:
        raise UnsupportedError("a preview in front of the picture, as raw photos have", "rawpy")
    if picture.mode == "YCbCr" and tuple(tags.get(SUBSAMPLING, (2, 2))) != (1, 1):  # libtiff's is in RGB by now
        raise UnsupportedError("uncompressed YCbCr with fewer samples of colour", "tifffile")
    if picture.use_load_libtiff:
        # libtiff hands over the machine's byte order; Pillow says so of 16 unsigned bits alone.
        wider = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
        _change_rawmode(picture, lambda raw: wider.get(raw, raw))
    if tags.get(PLANAR, 1) == SEPARATE:
        _mend_planes(picture)
    if picture.mode in ("P", "PA") and max(tags[COLOUR_MAP]) < 256:  # some writers leave 8 bits
        picture.palette = ImagePalette.raw("RGB;L", bytes(tags[COLOUR_MAP]))


def _mend_planes(picture: TiffImagePlugin.TiffImageFile) -> None:
    """Planes one after the other: of a raw mode, Pillow takes the first letter for the plane and forgets the depth."""
    tags = picture.tag_v2
    extra = tags.get(EXTRA_SAMPLES, ())
    bits = tags.get(BITS_PER_SAMPLE, (1,))
    if tags.get(SAMPLES_PER_PIXEL, 1) == 1:
        if not picture.use_load_libtiff:
            formats, fill = tags.get(SAMPLE_FORMAT, (1,)), tags.get(FILL_ORDER, 1)
            key = (tags.prefix, tags.get(PHOTOMETRIC, WHITE_IS_ZERO), formats, fill, bits, extra)
            whole = TiffImagePlugin.OPEN_INFO[key][1]
            _change_rawmode(picture, lambda letter: whole)
    elif tags.get(PHOTOMETRIC) != RGB or len(bits) != 3 + len(extra) or len(extra) > 1:
        raise UnsupportedError("planes of another colour space than RGB and RGBA", "tifffile")
    elif not picture.use_load_libtiff and max(bits) == 16:
        end = ";16L" if tags.prefix == b"II" else ";16B"
        _change_rawmode(picture, lambda letter: letter + end)


def _change_rawmode(picture: TiffImagePlugin.TiffImageFile, change: Callable[[str], str]) -> None:
    """``change`` how the samples of each tile are laid out."""
    for i, tile in enumerate(picture.tile):
        if isinstance(tile.args, tuple):
            picture.tile[i] = tile._replace(args=(change(tile.args[0]), *tile.args[1:]))
