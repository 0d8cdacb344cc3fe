"""One picture: decode it safely, bring it to RGB, and prepare it exactly as CLIP expects.

Reason codes of :class:`ImageError`: ``missing``, ``unreadable`` (the system refuses), ``not-regular`` (a pipe, a
device, a folder), ``empty``, ``not-image``, ``truncated``, ``damaged``, ``too-large``, ``shape``, ``range``.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from clip_fewshot.data.colour import ValueRangeError, to_rgb
from clip_fewshot.data.names import SUFFIXES_OF, escape
from clip_fewshot.data.parquet import cell_bytes, is_cell
from clip_fewshot.data.tar import file_bytes
from clip_fewshot.errors import DataError, UsageError

PIXEL_LIMIT = 50_000_000  # decoded at once; 200 MB of RGBX
REDUCED_LIMIT = 250_000_000  # JPEG only: decoded at 1/2, 1/4 or 1/8, so that photos of 200-megapixel phones work
BYTE_LIMIT = 1 << 30
LEAST_SIDE = 8  # pixels
GREATEST_ASPECT = 100  # a longer strip would be blown up beyond PIXEL_LIMIT when its short side is resized

Colour = tuple[float, float, float]  # red, green, blue

# Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021: the statistics of
# the training pictures, as OpenAI's preprocessing states them.
CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)


# EXIF 2.3, tag 274. TIFF files are turned by Pillow when they are loaded and no longer carry it.
ORIENTATION = 274
TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Kind(NamedTuple):
    name: str
    magic: tuple[bytes, ...]
    suffixes: tuple[str, ...]
    plugin: type[ImageFile.ImageFile]


# The plugins are called directly: Image.open would try every registered format, and its size limit is a global that
# other libraries change, warns where we must refuse and refuses where we can reduce.
KINDS = (
    _Kind("JPEG", (b"\xff\xd8\xff",), SUFFIXES_OF["JPEG"], JpegImagePlugin.JpegImageFile),
    _Kind("PNG", (b"\x89PNG\r\n\x1a\n",), SUFFIXES_OF["PNG"], PngImagePlugin.PngImageFile),
    _Kind("WEBP", (b"RIFF",), SUFFIXES_OF["WEBP"], WebPImagePlugin.WebPImageFile),
    _Kind("GIF", (b"GIF87a", b"GIF89a"), SUFFIXES_OF["GIF"], GifImagePlugin.GifImageFile),
    _Kind("BMP", (b"BM",), SUFFIXES_OF["BMP"], BmpImagePlugin.BmpImageFile),
    _Kind("TIFF", (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), SUFFIXES_OF["TIFF"], TiffImagePlugin.TiffImageFile),
)


class ImageError(DataError):
    """A picture that cannot be used; ``reason`` is one of the codes above."""

    def __init__(self, reason: str, *, expected: str, got: str, fix: str, where: str | None = None) -> None:
        super().__init__(expected=expected, got=got, fix=fix, where=where)
        self.reason = reason


class Decoded(NamedTuple):
    """An RGB picture and what had to be decided to get it.

    Notes: ``wrong-extension``, ``first-frame``, ``reduced`` (decoded at a fraction of its size), ``exif-unreadable``
    (taken as it is stored).
    """

    image: Image.Image
    notes: tuple[str, ...]


def open_image(path: str | Path) -> Image.Image:
    """The picture at ``path``: RGB, upright (EXIF), its first frame, alpha on white, 16 bits scaled to 8.

    Raises:
        ImageError: with a reason code; no other error leaves this function for any content of the file.
    """
    return decode(read_regular(path), path).image


def read_regular(path: str | Path) -> bytes:
    """The bytes of a regular file, or of one in a tar or Parquet file; pipes and devices are refused, not waited on."""
    name = escape(path)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        inside = _from_archive(Path(path))
        if inside is not None:
            return inside
        raise ImageError(
            "missing", expected="a picture", got="no such file", fix="check the path", where=name
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError(
            "unreadable", expected="a readable file", got=str(error), fix="check its permissions", where=name
        ) from error
    try:
        _check_regular(os.fstat(handle), name)
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise ImageError(
            "unreadable", expected="a readable file", got=str(error), fix="check the disk", where=name
        ) from error
    finally:
        os.close(handle)


def _from_archive(path: Path) -> bytes | None:
    try:
        inside = file_bytes(path, BYTE_LIMIT)
        return cell_bytes(path, BYTE_LIMIT) if inside is None else inside
    except DataError as error:
        raise ImageError(
            "unreadable", expected=error.expected, got=error.got, fix=error.fix, where=error.where
        ) from error


def _check_regular(status: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(
            "not-regular", expected="a regular file", got="a pipe, device or folder", fix="remove it", where=name
        )
    if status.st_size > BYTE_LIMIT:
        raise ImageError(
            "too-large",
            expected=f"at most {BYTE_LIMIT:,} bytes",
            got=f"{status.st_size:,}",
            fix="shrink it",
            where=name,
        )


def decode(data: bytes, path: str | Path) -> Decoded:
    """``data`` as a picture. ``path`` is named in errors and its extension compared with the content."""
    name = escape(path)
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError(
            expected="PIL.ImageFile.LOAD_TRUNCATED_IMAGES to be False",
            got="True, set by your code or another library",
            fix="set it to False: half-read pictures would pass as whole",
        )
    kind = _kind_of(data, name)
    fits = is_cell(Path(path)) or Path(path).suffix.lower() in kind.suffixes
    notes = [] if fits else ["wrong-extension"]
    try:
        picture = kind.plugin(io.BytesIO(data))
        if _check_size(picture, name):
            notes.append("reduced")
        if getattr(picture, "is_animated", False):
            notes.append("first-frame")
        picture.load()
        turn = _turn(picture, notes)
        image = to_rgb(picture)
        return Decoded(image if turn is None else image.transpose(turn), tuple(notes))
    except ImageError:
        raise
    except ValueRangeError as error:
        raise ImageError(
            "range", expected="values in their declared range", got=str(error), fix="rescale it", where=name
        ) from error
    except MemoryError as error:
        raise ImageError(
            "too-large", expected="a picture that fits into memory", got="no memory left", fix="shrink it", where=name
        ) from error
    except Exception as error:  # decoders meet hostile bytes with errors of every type (struct, Key, Syntax, OS...)
        text = f"{type(error).__name__}: {error}"
        reason = "truncated" if _speaks_of_truncation(text) else "damaged"
        raise ImageError(
            reason, expected=f"a whole {kind.name} picture", got=text, fix="replace the file", where=name
        ) from error


def _turn(picture: ImageFile.ImageFile, notes: list[str]) -> Image.Transpose | None:
    """What brings the stored pixels upright. Broken EXIF data costs a sound picture its turn, not its use."""
    try:
        return TURNS.get(picture.getexif().get(ORIENTATION))
    except Exception:  # as for pixels: hostile bytes, errors of every type
        notes.append("exif-unreadable")
        return None


def _kind_of(data: bytes, name: str) -> _Kind:
    if not data:
        raise ImageError(
            "empty", expected="a picture", got="a file of zero bytes", fix="replace or delete it", where=name
        )
    for kind in KINDS:
        if data.startswith(kind.magic) and (kind.name != "WEBP" or data[8:12] == b"WEBP"):
            if kind.name == "WEBP" and len(data) < int.from_bytes(data[4:8], "little"):
                raise ImageError(
                    "truncated",
                    expected="a whole WEBP picture",
                    got=f"{len(data)} bytes",
                    fix="replace the file",
                    where=name,
                )
            return kind
    known = ", ".join(kind.name for kind in KINDS)
    raise ImageError(
        "not-image",
        expected=f"one of {known}",
        got=f"content starting {data[:12]!r}",
        fix="convert or delete it",
        where=name,
    )


def _check_size(picture: ImageFile.ImageFile, name: str) -> bool:
    """Judge the size in the header, before any pixel is decoded; whether a reduced decode was arranged."""
    width, height = picture.size
    short, long = min(picture.size), max(picture.size)
    if short < LEAST_SIDE or long > GREATEST_ASPECT * short:
        expected = f"sides of {LEAST_SIDE} pixels or more, the longer at most {GREATEST_ASPECT} times the shorter"
        raise ImageError("shape", expected=expected, got=f"{width} x {height}", fix="crop or delete it", where=name)
    if width * height <= PIXEL_LIMIT:
        return False
    if isinstance(picture, JpegImagePlugin.JpegImageFile) and width * height <= REDUCED_LIMIT:
        for scale in (2, 4, 8):
            if (width // scale + 1) * (height // scale + 1) <= PIXEL_LIMIT:
                picture.draft(None, (width // scale, height // scale))
                return True
    limit = f"at most {PIXEL_LIMIT / 1e6:g} million pixels ({REDUCED_LIMIT / 1e6:g} for JPEG)"
    raise ImageError("too-large", expected=limit, got=f"{width} x {height}", fix="shrink it", where=name)


def _speaks_of_truncation(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in ("truncated", "not enough data", "unexpected end", "eof"))


def pixel_digest(image: Image.Image) -> str:
    """Hex SHA-256 of a picture in memory: mode, size and pixels."""
    header = f"{image.mode} {image.width} {image.height}\n".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def resize_crop(image: Image.Image, size: int) -> Image.Image:
    """Short side to ``size`` (bicubic), centre square of it, RGB: the geometry of OpenAI's preprocessing.

    The roundings are torchvision's: the long side is cut to an integer, the margin rounded half to even.
    """
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size)).convert("RGB")


def preprocess(image: Image.Image, size: int, mean: Colour = CLIP_MEAN, std: Colour = CLIP_STD) -> NDArray[np.float32]:
    """``image`` -> (3, size, size) float32; with CLIP's numbers equal to the last bit to OpenAI's pipeline."""
    return normalise(np.asarray(resize_crop(image, size)), mean, std)


def normalise(pixels: NDArray[np.uint8], mean: Colour = CLIP_MEAN, std: Colour = CLIP_STD) -> NDArray[np.float32]:
    """(..., h, w, 3) bytes -> (..., 3, h, w) float32 with the mean and deviation of each channel taken out."""
    planes = np.empty((*pixels.shape[:-3], 3, *pixels.shape[-3:-1]), np.float32)
    planes[...] = np.moveaxis(pixels, -1, -3)
    # In place and in planes: 0.09 ms a picture of 224; 0.50 ms with a new array per step, 0.15 ms by a table of
    # the 256 values of each channel. The operations are torchvision's, so that no bit differs.
    planes /= np.float32(255)
    planes -= np.asarray(mean, np.float32)[:, None, None]
    planes /= np.asarray(std, np.float32)[:, None, None]
    return planes
