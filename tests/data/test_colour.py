"""Every mode arrives as the RGB a viewer would show; no depth is clipped, no hidden colour shows."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clip_fewshot.data.colour import to_rgb
from clip_fewshot.data.decode import decode
from tests.data.pictures import encoded, pixels

RAMP16 = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)


def grey_of(data: bytes) -> np.ndarray:  # type: ignore[type-arg]
    array = np.asarray(decode(data, "a").image)
    assert (array == array[..., :1]).all()
    return array[..., 0]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_high_byte(format: str) -> None:
    assert np.array_equal(grey_of(encoded(Image.fromarray(RAMP16), format)), RAMP16 >> 8)


def test_big_endian_sixteen_bits() -> None:
    image = Image.frombytes("I;16B", (32, 32), RAMP16.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(to_rgb(image))[..., 0], RAMP16 >> 8)


def test_sixteen_bit_colour_png_keeps_its_high_byte() -> None:
    import struct
    import zlib

    values = np.random.default_rng(0).integers(0, 65536, (16, 16, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(np.asarray(decode(data, "a.png").image), values >> 8)


def test_thirty_two_bits_are_scaled_by_their_declared_depth() -> None:
    unsigned = np.linspace(0, 2**31 - 1, 1024).astype(np.int32).reshape(32, 32)  # Pillow writes mode I as signed
    assert np.abs(grey_of(encoded(Image.fromarray(unsigned), "TIFF")).astype(int) - (unsigned >> 23)).max() <= 1


def test_floats_in_the_unit_range() -> None:
    values = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
    assert np.abs(grey_of(encoded(Image.fromarray(values), "TIFF")) - values * 255).max() <= 1


def test_alpha_lies_on_white_and_hides_colours() -> None:
    rgba = np.dstack([pixels(5), np.full((24, 32), 255, np.uint8)])
    rgba[:12, :, 3] = 0
    rgba[12, :, 3] = 128
    shown = np.asarray(decode(encoded(Image.fromarray(rgba), "PNG"), "a.png").image)
    assert (shown[:12] == 255).all()
    assert np.array_equal(shown[13:], rgba[13:, :, :3])
    half = (rgba[12, :, :3].astype(float) * 128 + 255 * 127) / 255
    assert np.abs(shown[12] - half).max() <= 1


def test_grey_alpha_and_palette_transparency() -> None:
    la = Image.merge("LA", [Image.new("L", (16, 16), 10), Image.new("L", (16, 16), 0)])
    assert (np.asarray(to_rgb(la)) == 255).all()
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 200, 10, 20])
    assert (np.asarray(decode(encoded(palette, "PNG"), "a.png").image) == (200, 10, 20)).all()
    assert (np.asarray(decode(encoded(palette, "PNG", transparency=1), "a.png").image) == 255).all()
    keyed = encoded(Image.new("RGB", (16, 16), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert (np.asarray(decode(keyed, "a.png").image) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_other_modes_keep_the_picture(mode: str) -> None:
    smooth = Image.merge(
        "RGB", [Image.new("L", (16, 16), 0), Image.new("L", (16, 16), 0), Image.new("L", (16, 16), 255)]
    )
    source = Image.new("RGB", (16, 16), "white") if mode in ("1", "L") else smooth
    if mode == "LAB":
        source = Image.new("LAB", (16, 16), (255, 128, 128))  # L = 100 and no colour: white
        assert (np.asarray(to_rgb(source)) >= 253).all()
        return
    assert np.abs(np.asarray(to_rgb(source.convert(mode))).astype(int) - np.asarray(source)).max() <= 2


@pytest.mark.parametrize("mode", ["CMYK"])
@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_files(mode: str, format: str) -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert(mode)
    assert np.abs(np.asarray(decode(encoded(red, format), "a").image).astype(int) - (255, 0, 0)).max() <= 6
