"""Small files that claim, or hold, very large pictures: read or refused in bounded memory."""

from __future__ import annotations

import io
import os
import resource
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import clip_fewshot as cf
from tests.attack.harness import Attack, Outcome, shuffled

MEGABYTES, OF_FOLDER, SECONDS = 400, 1500, 30.0
PNG_MODES = {  # colour type, bits, samples
    "1 bit": (0, 1, 1),
    "2 bits": (0, 2, 1),
    "grey": (0, 8, 1),
    "grey 16": (0, 16, 1),
    "RGB": (2, 8, 3),
    "RGB 16": (2, 16, 3),
    "palette": (3, 8, 1),
    "grey, alpha": (4, 8, 2),
    "grey 16, alpha": (4, 16, 2),
    "RGBA": (6, 8, 4),
    "RGBA 16": (6, 16, 4),
}
SIDES = (7071, 5000, 13_000)  # just within 50 million pixels, half of it, far beyond


class Bomb(NamedTuple):
    """A file that is made when it is needed."""

    name: str
    make: Callable[[Path], object]
    copies: int = 1


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path: Path, mode: str, side: int, extra: bytes = b"", rows: int | None = None) -> None:
    """A PNG of zeros, written a row at a time."""
    kind, bits, samples = PNG_MODES[mode]
    press, row = zlib.compressobj(9), bytes(1 + (side * bits * samples + 7) // 8)
    data = b"".join(press.compress(row) for _ in range(side if rows is None else rows)) + press.flush()
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, kind, 0, 0, 0))
    colours = _chunk(b"PLTE", bytes(range(256)) * 3) + _chunk(b"tRNS", bytes(256)) if kind == 3 else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + colours + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b""))


def _text_chunk(kind: bytes) -> bytes:
    packed = zlib.compress(bytes(1 << 29), 9)
    head = {b"zTXt": b"note\0\0", b"iCCP": b"profile\0\0", b"iTXt": b"note\0\1\0\0\0"}[kind]
    return _chunk(kind, head + packed)


def pillow(path: Path, mode: str, width: int, height: int, format: str, **options: object) -> None:
    """By Pillow itself."""
    Image.MAX_IMAGE_PIXELS = None
    Image.new(mode, (width, height)).save(path, format, **options)  # type: ignore[arg-type]


def frames(path: Path, format: str, count: int, side: int) -> None:
    """Many frames, of which one is wanted."""
    first = Image.new("P", (side, side))
    others = [Image.new("P", (side, side), 1 + i % 2) for i in range(count - 1)]
    first.save(path, format, save_all=True, append_images=others)


def tiff(path: Path, bits: int, samples: int, side: int, format: int = 1) -> None:
    """One strip for all rows, deflated."""
    press, row = zlib.compressobj(9), bytes(side * bits * samples // 8)
    data = b"".join(press.compress(row) for _ in range(side)) + press.flush()
    tags = [(256, 4, side), (257, 4, side), (258, 3, bits), (259, 3, 8), (262, 3, 2 if samples > 2 else 1),
            (273, 4, 8), (277, 3, samples), (278, 4, side), (279, 4, len(data)), (339, 3, format)]  # fmt: skip
    directory = io.BytesIO()
    directory.write(struct.pack("<H", len(tags)))
    end = 8 + len(data) + 2 + 12 * len(tags) + 4
    more = b""
    for tag, kind, value in tags:
        count, field = 1, struct.pack("<I", value)
        if tag in (258, 339) and samples > 2:
            count, field = samples, struct.pack("<I", end + len(more))
            more += struct.pack("<H", value) * samples
        directory.write(struct.pack("<HHI", tag, kind, count) + field)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory.getvalue() + bytes(4) + more)


def gif_canvas(path: Path, side: int) -> None:
    """A canvas of which one pixel is drawn."""
    pillow(path, "P", 1, 1, "GIF")
    data = path.read_bytes()
    path.write_bytes(data[:6] + struct.pack("<HH", side, side) + data[10:])


def bombs() -> Iterator[Bomb]:
    """All of them."""
    for mode in PNG_MODES:
        for side in SIDES:
            yield Bomb(f"{mode} {side}.png", partial(png, mode=mode, side=side))
    for kind in (b"zTXt", b"iTXt", b"iCCP"):
        yield Bomb(f"{kind.decode()}.png", partial(png, mode="grey", side=64, extra=_text_chunk(kind)))
    yield Bomb("few rows.png", partial(png, mode="RGBA 16", side=7000, rows=3))
    yield Bomb("many rows.png", partial(png, mode="grey", side=100, rows=5_000_000))
    for count, side in ((3000, 64), (100, 1500)):
        yield Bomb(f"{count} frames.gif", partial(frames, format="GIF", count=count, side=side))
    for side in (7000, 65_535):
        yield Bomb(f"canvas {side}.gif", partial(gif_canvas, side=side))
    for bits, samples, format in ((8, 1, 1), (16, 1, 1), (8, 3, 1), (16, 3, 1), (32, 1, 3), (32, 1, 1)):
        yield Bomb(
            f"{samples} times {bits} bits, form {format}.tif",
            partial(tiff, bits=bits, samples=samples, side=7000, format=format),
        )
    yield Bomb("beyond.tif", partial(tiff, bits=8, samples=3, side=20_000))
    for mode, side in (("L", 7000), ("RGB", 7000), ("CMYK", 7000), ("RGB", 15_000)):
        yield Bomb(f"{mode} {side}.jpg", partial(pillow, mode=mode, width=side, height=side, format="JPEG"))
    yield Bomb("strip.jpg", partial(pillow, mode="L", width=60_000, height=8, format="JPEG"))
    yield Bomb("RGB.webp", partial(pillow, mode="RGB", width=7000, height=7000, format="WEBP", lossless=True, method=0))
    for mode in ("1", "L", "RGB"):
        yield Bomb(f"{mode}.bmp", partial(pillow, mode=mode, width=7000, height=7000, format="BMP"))
    yield Bomb("palette.tif", partial(pillow, mode="P", width=7000, height=7000, format="TIFF", compression="packbits"))
    yield Bomb("lzw.tif", partial(pillow, mode="CMYK", width=7000, height=7000, format="TIFF", compression="tiff_lzw"))
    yield Bomb("RGBA.avif", partial(pillow, mode="RGBA", width=6000, height=6000, format="AVIF", speed=10))
    yield Bomb("grey 16.png", partial(png, mode="grey 16", side=7071), copies=16)
    yield Bomb("RGBA.png", partial(png, mode="RGBA", side=7000), copies=16)


BOMBS = shuffled(bombs())


def strike(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    bomb = BOMBS[number]
    place = folder / "work" / "bombs"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    bomb.make(place / bomb.name)
    for i in range(1, bomb.copies):
        shutil.copyfile(place / bomb.name, place / f"{i} {bomb.name}")
    limit = MEGABYTES if bomb.copies == 1 else OF_FOLDER
    told, read = os.pipe()[::-1]
    child = os.fork()
    if not child:
        os.write(told, _read(place).encode())
        os._exit(0)
    os.waitpid(child, 0)
    what, seconds, grown = os.read(read, 1000).decode().split("|")
    shutil.rmtree(place)
    if what not in ("read", "refused"):
        return Outcome(False, what, bomb.name)
    if float(grown) > limit:
        return Outcome(False, f"more than {limit} MB", f"{bomb.name}: {float(grown):,.0f} MB, {what}")
    if float(seconds) > SECONDS * bomb.copies:
        return Outcome(False, f"more than {SECONDS:g} s", bomb.name)
    return Outcome(True, what, f"{bomb.name}: {float(grown):,.0f} MB, {float(seconds):.1f} s")


def _read(place: Path) -> str:
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 10
    began = time.process_time()
    try:
        for picture in cf.read_images([place]).images:
            cf.read_images([picture]).open(0).close()
        what = "read"
    except cf.DataError:
        what = "refused"
    except BaseException as error:
        what = f"raw {type(error).__name__}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"{what}|{time.process_time() - began}|{grown}"


ATTACKS = [
    Attack(
        "bombs",
        f"read or refused in {MEGABYTES} MB, folders of 16 in {OF_FOLDER} MB",
        len(BOMBS),
        1,
        lambda folder: None,
        strike,
        patience=600,
    )
]
