"""The bytes of a picture file -> RGB: its size judged first, every error explained, whatever the bytes are."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageFile, Jpeg2KImagePlugin, JpegImagePlugin

from clip_fewshot.data.colour import ValueRangeError, to_rgb
from clip_fewshot.data.decode_memory import MEMORY, PICTURE_MEMORY, memory_of
from clip_fewshot.data.decoder_warnings import listening
from clip_fewshot.data.headers import UnsupportedError, clear_deep_key, mend_header
from clip_fewshot.data.names import escape
from clip_fewshot.data.parquet import is_cell
from clip_fewshot.data.picture_kinds import DECODERS, PILLOW_NAMES, ImageError, kind_of, unsupported
from clip_fewshot.errors import UsageError

PIXEL_LIMIT = 50_000_000  # decoded at once; 200 MB of RGBX
REDUCED_LIMIT = 250_000_000  # JPEG only: decoded at 1/2, 1/4 or 1/8, so that photos of 200-megapixel phones work
LEAST_SIDE = 8  # pixels
GREATEST_ASPECT = 100  # a longer strip would be blown up beyond PIXEL_LIMIT when its short side is resized

# In what Pillow says of a picture that is sound, but of a form that it has no decoder for.
_UNSUPPORTED = re.compile(
    r"(?i)unsupported|not (yet )?supported|not installed|cannot handle|unknown (pixel mode|raw mode|data organization)"
    r"|string index out of range|SyntaxError: (\d+|\(\d+, \d+\))(;|$)"
)
_NUMBERS = re.compile(r"\b\d+\b")

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


class Decoded(NamedTuple):
    """An RGB picture and what had to be decided to get it.

    Notes: ``wrong-extension``, ``first-frame``, ``reduced`` (decoded at a fraction of its size), ``exif-unreadable``
    (taken as it is stored), ``decoder-warning (...)``, with what the decoder said first, its numbers left
    out.
    """

    image: Image.Image
    notes: tuple[str, ...]


def decode(data: bytes, path: str | Path) -> Decoded:
    """``data`` as a picture. ``path`` is named in errors and its extension compared with the content."""
    with decoding(data, path) as decoded:
        return decoded


@contextmanager
def decoding(data: bytes, path: str | Path) -> Iterator[Decoded]:
    """The same; inside the block the picture counts in the memory that threads share."""
    name = escape(path)
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        expected = "PIL.ImageFile.LOAD_TRUNCATED_IMAGES to be False"
        got = "True, set by your code or another library"
        raise UsageError(expected=expected, got=got, fix="set it to False: half-read pictures would pass as whole")
    kind = kind_of(data, path)
    fits = is_cell(Path(path)) or Path(path).suffix.lower() in kind.suffixes
    notes, heard = [] if fits else ["wrong-extension"], list[str]()
    with _explained(kind.name, name, heard):
        with listening(heard, libtiff=False):
            picture = kind.plugin(io.BytesIO(data))
            mend_header(picture, data)
        memory, reduced = _arrange_size(picture, len(data), name)
        animated = getattr(picture, "is_animated", False) and kind.name != "PSD"  # it opens as its layers together
        notes += ["reduced"] * reduced + ["first-frame"] * animated
    with MEMORY.hold(memory):
        with _explained(kind.name, name, heard), listening(heard, libtiff=getattr(picture, "use_load_libtiff", False)):
            image = _upright(picture, data, notes, name)
        del picture
        notes += [f"decoder-warning ({_NUMBERS.sub('#', escape(line))[:100]})" for line in heard[:1]]
        yield Decoded(image, tuple(notes))


def _upright(picture: ImageFile.ImageFile, data: bytes, notes: list[str], name: str) -> Image.Image:
    picture.load()
    clear_deep_key(picture, data)
    turn = turn_of(picture, notes)
    if turn is None:
        return to_rgb(picture)
    if memory_of(picture, len(data), turned=True) > PICTURE_MEMORY:
        raise _too_large(picture, name)
    return _turned(to_rgb(picture), turn)


@contextmanager
def _explained(kind: str, name: str, heard: Sequence[str]) -> Iterator[None]:
    """Errors of a decoder as ours."""
    try:
        yield
    except ImageError:
        raise
    except UnsupportedError as error:
        raise unsupported(str(error), error.reader, name) from error
    except ValueRangeError as error:
        raise ImageError(
            "range", expected="values in their declared range", got=str(error), fix="rescale it", where=name
        ) from error
    except MemoryError as error:
        raise ImageError(
            "too-large", expected="a picture that fits into memory", got="no memory left", fix="shrink it", where=name
        ) from error
    except Exception as error:  # decoders meet hostile bytes with errors of every type (struct, Key, Syntax, OS...)
        text = "; ".join([f"{type(error).__name__}: {error}", *heard[:1]])
        if _UNSUPPORTED.search(text):
            raise unsupported(text, DECODERS.get(kind, "imagecodecs"), name) from error
        reason = "truncated" if _speaks_of_truncation(text) else "damaged"
        raise ImageError(
            reason, expected=f"a whole {kind} picture", got=text, fix="replace the file", where=name
        ) from error


def upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    """A picture in memory as its file would be read: RGB, upright, alpha on white.

    One that was opened and not yet loaded is read from its file; of one that was loaded, Pillow has cut 16-bit colours
    to 8 bits.

    Raises:
        ImageError: as of a file.
    """
    if isinstance(picture, ImageFile.ImageFile) and picture.tile and getattr(picture, "fp", None) is not None:
        data = _unread(picture)
        if data is not None:
            return decode(data, name).image
    with _explained(picture.format or "", name, ()):
        picture.load()
        turn = turn_of(picture, [])
        return to_rgb(picture) if turn is None else _turned(to_rgb(picture), turn)


def _unread(picture: ImageFile.ImageFile) -> bytes | None:
    """The file of a picture that was opened and at whose first frame nothing was changed, if its format is read."""
    if picture.tell() != 0 or picture.format not in PILLOW_NAMES or picture.decoderconfig or picture.fp is None:
        return None
    place = picture.fp.tell()
    picture.fp.seek(0)
    data = picture.fp.read()
    picture.fp.seek(place)
    return data


def turn_of(picture: Image.Image, notes: list[str]) -> Image.Transpose | None:
    """What brings the stored pixels upright. Broken EXIF data costs a sound picture its turn, not its use."""
    try:
        return TURNS.get(picture.getexif().get(ORIENTATION))
    except Exception:  # as for pixels: hostile bytes, errors of every type
        notes.append("exif-unreadable")
        return None


def _turned(picture: Image.Image, turn: Image.Transpose) -> Image.Image:
    """Without the EXIF data that would have it turned once more."""
    upright = picture.transpose(turn)
    upright.info.clear()
    return upright


def _arrange_size(picture: ImageFile.ImageFile, size: int, name: str) -> tuple[int, bool]:
    """Judge the size in the header, before any pixel is decoded; bytes, and whether a reduced decode was arranged."""
    width, height = picture.size
    short, long = min(picture.size), max(picture.size)
    if short < LEAST_SIDE or long > GREATEST_ASPECT * short:
        expected = f"sides of {LEAST_SIDE} pixels or more, the longer at most {GREATEST_ASPECT} times the shorter"
        raise ImageError("shape", expected=expected, got=f"{width} x {height}", fix="crop or delete it", where=name)
    jpeg = isinstance(picture, JpegImagePlugin.JpegImageFile)
    turned = picture.format in ("JPEG", "TIFF") and turn_of(picture, []) is not None  # others tell after the pixels
    scales = (1, 2, 4, 8) if jpeg else (1, 2) if isinstance(picture, Jpeg2KImagePlugin.Jpeg2KImageFile) else (1,)
    for scale in scales if width * height <= (REDUCED_LIMIT if jpeg else PIXEL_LIMIT) else ():
        memory = memory_of(picture, size, turned, scale)
        if -(-width // scale) * -(-height // scale) <= PIXEL_LIMIT and memory <= PICTURE_MEMORY:
            if jpeg and scale > 1:
                picture.draft(None, (width // scale, height // scale))
            elif scale > 1 and isinstance(picture, Jpeg2KImagePlugin.Jpeg2KImageFile):
                picture.reduce = 1
            return memory, scale > 1
    raise _too_large(picture, name)


def _too_large(picture: ImageFile.ImageFile, name: str) -> ImageError:
    limit = f"at most {PIXEL_LIMIT / 1e6:g} million pixels ({REDUCED_LIMIT / 1e6:g} for JPEG)"
    expected = f"{limit}, and {PICTURE_MEMORY / 1e6:g} MB while it is decoded"
    got = f"{picture.width} x {picture.height} in {picture.format}"
    return ImageError("too-large", expected=expected, got=got, fix="shrink it, or save it as JPEG", where=name)


def _speaks_of_truncation(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in ("truncated", "not enough data", "unexpected end", "eof"))
