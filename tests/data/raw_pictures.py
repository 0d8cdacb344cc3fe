"""PNG, TIFF and Netpbm files of every depth, written by hand: Pillow writes few of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.generic]  # (height, width) or (height, width, channels)


def packed_rows(values: Samples, bits: int, order: Literal["<", ">"] = ">") -> list[bytes]:
    """The bytes of each row: ``bits`` a sample, the high bit first, whole bytes in ``order``."""
    rows = values.reshape(len(values), -1)
    if bits >= 8 and bits % 8 == 0 and bits != 24:
        return [row.astype(row.dtype.newbyteorder(order)).tobytes() for row in rows]
    places = np.arange(bits - 1, -1, -1)
    return [np.packbits(((row.astype(np.int64)[:, None] >> places) & 1).astype(np.uint8)).tobytes() for row in rows]


def png(values: Samples, bits: int, colour: int, **chunks: bytes) -> bytes:
    """``colour``: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA; ``chunks`` such as ``PLTE`` and ``tRNS``."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in packed_rows(values, bits)))
    before = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(
    values: Samples,
    bits: int,
    photometric: int = 1,
    *,
    order: Literal["<", ">"] = "<",
    kind: int = 1,
    deflate: bool = False,
    planar: bool = False,
    tags: Mapping[int, Sequence[int]] | None = None,
) -> bytes:
    """``kind``: 1 unsigned, 2 signed, 3 floats. One strip, or one a channel; ``tags`` are shorts."""
    channels = 1 if values.ndim == 2 else values.shape[2]
    layers = [values[..., i] for i in range(channels)] if planar and channels > 1 else [values]
    strips = [b"".join(packed_rows(layer, bits, order)) for layer in layers]
    strips = [zlib.compress(strip) if deflate else strip for strip in strips]
    starts = np.cumsum([8, *map(len, strips)]).tolist()
    entries: dict[int, tuple[str, Sequence[int]]] = {
        256: ("H", [values.shape[1]]),
        257: ("H", [values.shape[0]]),
        258: ("H", [bits] * channels),
        259: ("H", [8 if deflate else 1]),
        262: ("H", [photometric]),
        273: ("I", starts[:-1]),
        277: ("H", [channels]),
        278: ("H", [values.shape[0]]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [2 if planar else 1]),
        339: ("H", [kind] * channels),
    } | {tag: ("H", numbers) for tag, numbers in (tags or {}).items()}
    ifd, beyond = struct.pack(order + "H", len(entries)), b""
    end = starts[-1] + 2 + 12 * len(entries) + 4
    for tag, (letter, numbers) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", end + len(beyond))
        ifd += struct.pack(order + "HHI", tag, 3 if letter == "H" else 4, len(numbers)) + place
        beyond += data if len(data) > 4 else b""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", starts[-1]) + b"".join(strips) + ifd + b"\0\0\0\0" + beyond


def netpbm(values: Samples, maxval: int, plain: bool = False) -> bytes:
    """PGM or PPM, in binary or in plain numbers."""
    letter = (2 if values.ndim == 2 else 3) + (0 if plain else 3)
    head = f"P{letter}\n# made by hand\n{values.shape[1]} {values.shape[0]}\n{maxval}\n".encode()
    if plain:
        return head + b"\n".join(b" ".join(b"%d" % v for v in row) for row in values.reshape(len(values), -1))
    return head + values.astype(">u2" if maxval > 255 else "u1").tobytes()
