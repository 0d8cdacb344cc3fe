"""Pictures of seven formats with bytes changed, cut and mixed: read or refused, quickly and in little memory.

The first cases are the pictures as they are, which must be read. A cut picture that is read must have all its pixels.
"""

from __future__ import annotations

import io
import resource
import struct
import time
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

import clip_fewshot as cf
from tests.attack.harness import Attack, Outcome
from tests.data.pictures import open_image

SECONDS, MEGABYTES = 1.0, 400
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "AVIF": "avif"}
PLAN = (
    *(("JPEG", mode, options) for mode in ("RGB", "L", "CMYK") for options in ({}, {"progressive": True})),
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    *(("WEBP", mode, {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (False, True)),
    *(("GIF", mode, {}) for mode in ("L", "P")),
    *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB")),
    *(("TIFF", mode, {}) for mode in ("1", "L", "RGB", "RGBA", "CMYK", "I;16")),
    *(("TIFF", "RGB", {"compression": how}) for how in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")),
    ("TIFF", "1", {"compression": "group4"}),
    ("AVIF", "RGB", {}),
    ("AVIF", "RGBA", {}),
)
MOVING = ("GIF", "WEBP", "PNG", "TIFF")


@cache
def pictures() -> list[tuple[str, bytes]]:
    """Suffix and bytes of every picture that is attacked."""
    found = []
    for seed, (format, mode, options) in enumerate(PLAN):
        found.append((SUFFIXES[format], _encode([_draw(seed, mode)], format, **options)))
        if format == "JPEG":  # lies on its side
            exif = Image.Exif()
            exif[274] = 6
            found.append((SUFFIXES[format], _encode([_draw(seed, mode)], format, exif=exif, **options)))
    frames = [_draw(seed, "RGB") for seed in range(4)]
    return found + [(SUFFIXES[format], _encode(frames, format, save_all=True)) for format in MOVING]


def _draw(seed: int, mode: str) -> Image.Image:
    smooth = np.linspace(0, 200, 40 * 48).reshape(40, 48, 1)
    pixels = smooth + np.random.default_rng(seed).integers(0, 55, (40, 48, 3))
    if mode == "I;16":
        return Image.fromarray((pixels[..., 0] * 256).astype(np.uint16))
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def _encode(frames: list[Image.Image], format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    more = {"append_images": frames[1:]} if len(frames) > 1 else {}
    frames[0].save(buffer, format, **more, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _flip(data: bytes, draw: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for at in draw.integers(len(data), size=int(draw.choice([1, 1, 2, 8]))).tolist():
        changed[at] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def _flip_in_header(data: bytes, draw: np.random.Generator) -> bytes:
    return _flip(data[:80], draw) + data[80:]


def _number(data: bytes, draw: np.random.Generator) -> bytes:
    """A count, offset or size becomes one at the edge of its range."""
    width, at = int(draw.choice([2, 4])), int(draw.integers(max(1, len(data) - 4)))
    value = int(draw.choice([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000, 0xFFFFFFF0])) % (1 << 8 * width)
    return data[:at] + value.to_bytes(width, str(draw.choice(["little", "big"]))) + data[at + width :]  # type: ignore[arg-type]


def _splice(data: bytes, draw: np.random.Generator) -> bytes:
    other = pictures()[int(draw.integers(len(pictures())))][1]
    a, b = int(draw.integers(len(data))), int(draw.integers(len(other)))
    return data[:a] + other[b:]


def _fill(data: bytes, draw: np.random.Generator) -> bytes:
    at, size = int(draw.integers(len(data))), int(draw.integers(1, 200))
    return data[:at] + bytes([int(draw.choice([0, 255, 127]))]) * len(data[at : at + size]) + data[at + size :]


def _repeat(data: bytes, draw: np.random.Generator) -> bytes:
    at, size = int(draw.integers(len(data))), int(draw.integers(1, 200))
    return data[:at] + data[at : at + size] * int(draw.integers(2, 20)) + data[at + size :]


def _remove(data: bytes, draw: np.random.Generator) -> bytes:
    at, size = int(draw.integers(len(data))), int(draw.integers(1, 200))
    return data[:at] + data[at + size :]


def _valid_chunks(data: bytes, draw: np.random.Generator) -> bytes:
    """Flips that a PNG's own check sums do not show."""
    if not data.startswith(b"\x89PNG"):
        return _flip(data, draw)
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    hit = int(draw.integers(len(chunks)))
    kind, body = chunks[hit]
    chunks[hit] = (kind, _flip(body, draw) if body else body)
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _cut(data: bytes, draw: np.random.Generator) -> bytes:
    return data[: int(draw.integers(len(data)))]


WAYS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _flip,
    _flip_in_header,
    _number,
    _splice,
    _fill,
    _repeat,
    _remove,
    _valid_chunks,
    _cut,
)


def strike(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    whole = number < len(pictures())
    suffix, data = pictures()[number if whole else int(draw.integers(len(pictures())))]
    way = None if whole else WAYS[int(draw.integers(len(WAYS)))]
    mutated = data if way is None else way(data, draw)
    path = folder / "work" / f"picture.{suffix}"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(mutated)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        image = open_image(path)
    except cf.DataError as error:
        image, refused = None, str(error)
    except Exception as error:
        return Outcome(False, f"raw {type(error).__name__}", f"{suffix}: {error}"[:200])
    took, grown = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if took > SECONDS or grown > MEGABYTES << 10:
        return Outcome(False, f"takes {'a second' if took > SECONDS else f'{MEGABYTES} MB'}", f"{suffix}: {took:.1f} s")
    if image is None:
        return Outcome(not whole, "refused", f"untouched {suffix}: {refused}"[:300] if whole else "")
    if way is _cut:
        path.write_bytes(data)
        if image.tobytes() != open_image(path).tobytes():
            return Outcome(False, "cut and read differently", suffix)
    return Outcome(True, "read")


ATTACKS = [
    Attack(
        "mutated pictures",
        f"read or refused within {SECONDS:g} s and {MEGABYTES} MB, untouched ones read, cut ones whole or refused",
        100_000,
        400,
        lambda folder: None,
        strike,
    )
]
