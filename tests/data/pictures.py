"""Small pictures for the tests, and the bytes of their files."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_fewshot.data.decode import decode
from clip_fewshot.data.picture_files import read_regular

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "PCX", "SGI", "QOI", "DDS")
UNMARKED = ("TGA", "PCX")  # known by their extension alone


def pixels(seed: int, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def open_image(path: str | Path) -> Image.Image:
    return decode(read_regular(path), path).image


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def file_name(format: str) -> str:
    return f"a.{'jp2' if format == 'JPEG2000' else format.lower()}"


def picture_bytes(seed: int, format: str = "PNG", **options: object) -> bytes:
    return encoded(Image.fromarray(pixels(seed)), format, **options)


def put(path: Path, data: bytes | int | str) -> Path:
    """Write bytes, a text, or the picture of a seed (PNG content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    path.write_bytes(picture_bytes(data) if isinstance(data, int) else data)
    return path


def class_folders(root: Path, classes: dict[str, int], start: int = 0) -> Path:
    """A folder per class with so many distinct pictures each."""
    seed = start
    for name, count in classes.items():
        for i in range(count):
            put(root / name / f"{i:03d}.png", seed)
            seed += 1
    return root


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares its size and holds next to no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )
