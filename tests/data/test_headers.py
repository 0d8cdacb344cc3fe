"""Every depth, sign, order, colour space and transparent key equals its 8-bit twin, or is refused by name."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clip_fewshot.data.decode import decode, upright_rgb
from clip_fewshot.data.picture_kinds import ImageError
from tests.data.pictures import encoded
from tests.data.raw_pictures import netpbm, png, tiff

H, W = 16, 19
ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")
TYPES = {1: np.uint8, 2: np.uint8, 4: np.uint8, 8: np.uint8, 16: np.uint16, 32: np.uint32}
Values = NDArray[Any]


def samples(bits: int, *channels: int) -> Values:
    """Random numbers of ``bits``, black and white among them."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (H, W, *channels), dtype=np.uint64)
    values.flat[:2] = 0, 2**bits - 1
    return values.astype(TYPES.get(bits, np.uint16 if bits < 16 else np.uint32))


def twin(values: Values, bits: int) -> Values:
    """What the same picture holds in 8 bits."""
    rounded: Values = np.round(values.astype(float) * 255 / (2**bits - 1))
    return rounded


def on_white(colours: Values, alpha: Values, bits: int, premultiplied: bool = False) -> Values:
    c, a = colours / (2**bits - 1), alpha / (2**bits - 1)
    return np.asarray(np.round(255 * ((c if premultiplied else c * a) + 1 - a)))


def pixels_of(data: bytes, path: str = "a.tif") -> Values:
    """By path and as a picture that Pillow opened: the same."""
    by_path = np.asarray(decode(data, path).image)
    assert np.array_equal(np.asarray(upright_rgb(Image.open(io.BytesIO(data)), "image 0")), by_path)
    return by_path


def assert_near(data: bytes, expected: Values, path: str = "a.tif", most: int = 1) -> None:
    expected = expected if expected.ndim == 3 else expected[..., None]
    assert np.abs(pixels_of(data, path).astype(int) - expected).max() <= most


def is_read(data: bytes, expected: Values, most: int = 1) -> bool:
    """Whether it is read, and then right; what is refused is sound, and a package is named."""
    try:
        assert_near(data, expected, most=most)
    except ImageError as error:
        if error.reason != "unsupported" or "tifffile" not in str(error):
            raise
        return False
    return True


GREY_READ = {
    *(("u", bits, order, photo) for bits in (1, 2, 4, 8) for order in ORDERS for photo in (0, 1)),
    *(("u", 12, "<", 1), ("u", 16, "<", 0), ("u", 16, "<", 1), ("u", 16, ">", 1), ("u", 32, "<", 1)),
    *(("i", bits, order, 1) for bits in (8, 16, 32) for order in ORDERS),
    *(("f", 32, order, photo) for order in ORDERS for photo in (0, 1)),
}
GREY = [("u", bits) for bits in (1, 2, 4, 8, 10, 12, 14, 16, 24, 32)]
GREY += [("i", bits) for bits in (8, 16, 32)] + [("f", bits) for bits in (16, 32, 64)]


@pytest.mark.parametrize(("sort", "bits"), GREY)
def test_grey_tiffs_of_every_depth_sign_order_and_white(sort: str, bits: int) -> None:
    if sort == "u":
        values, shown = samples(bits), twin(samples(bits), bits)
    elif sort == "i":
        values, shown = samples(bits - 1).astype(f"i{bits // 8}"), twin(samples(bits - 1), bits - 1)
    else:
        values = np.random.default_rng(0).random((H, W)).astype(f"f{bits // 8}")
        shown = np.round(values.astype(float) * 255)
    kind = {"u": 1, "i": 2, "f": 3}[sort]
    for order, photometric, deflate, planar in product(ORDERS, (0, 1), (False, True), (False, True)):
        data = tiff(values, bits, photometric, order=order, kind=kind, deflate=deflate, planar=planar)
        expected = shown if photometric else 255 - shown
        assert is_read(data, expected) == ((sort, bits, order, photometric) in GREY_READ), (order, photometric, deflate)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_negative_numbers_are_out_of_range(bits: int) -> None:
    values = samples(bits - 1).astype(f"i{bits // 8}")
    values[3, 3] = -5
    for order, deflate in product(ORDERS, (False, True)):
        with pytest.raises(ImageError) as caught:
            decode(tiff(values, bits, kind=2, order=order, deflate=deflate), "a.tif")
        assert caught.value.reason == "range"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extra", [None, 0, 1, 2])
def test_colour_tiffs_in_one_plane_or_several(bits: int, extra: int | None) -> None:
    values = samples(bits, 3 if extra is None else 4)
    if extra == 1:
        values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
    opaque = extra in (None, 0)
    shown = twin(values[..., :3], bits) if opaque else on_white(values[..., :3], values[..., 3:], bits, extra == 1)
    for order, deflate, planar in product(ORDERS, (False, True), (False, True)):
        tags = None if extra is None else {338: [extra]}
        data = tiff(values, bits, 2, order=order, deflate=deflate, planar=planar, tags=tags)
        most = 1 if opaque else 2  # 16 bits and their alpha are each cut to 8 before they meet
        assert is_read(data, shown, most) or (planar and not deflate and extra in (0, 1))


@pytest.mark.parametrize(("extra", "photometric"), [*product((0, 1, 2), (0, 1))])
def test_grey_tiffs_with_a_second_sample(extra: int, photometric: int) -> None:
    values = samples(8, 2)
    if extra == 1:
        values[..., 0] = np.minimum(values[..., 0], values[..., 1])
    grey = values[..., 0]
    shown = twin(grey, 8) if extra == 0 else on_white(grey, values[..., 1], 8, extra == 1)
    for deflate, planar in product((False, True), (False, True)):
        data = tiff(values, 8, photometric, deflate=deflate, planar=planar, tags={338: [extra]})
        assert is_read(data, shown if photometric else 255 - shown) == (photometric == 1 and not planar)


@pytest.mark.parametrize(("bits", "scale"), [*product((1, 2, 4, 8), (257, 1))])
def test_palettes_of_tiffs_in_16_bits_and_in_8(bits: int, scale: int) -> None:
    values = samples(bits)
    palette = np.random.default_rng(3).integers(0, 256, (3, 2**bits))
    for deflate, planar in product((False, True), (False, True)):
        data = tiff(values, bits, 3, deflate=deflate, planar=planar, tags={320: (palette * scale).ravel().tolist()})
        assert np.array_equal(pixels_of(data), palette.T[values])


def test_other_colour_spaces_of_tiffs() -> None:
    image = Image.fromarray(np.asarray(Image.effect_mandelbrot((20, H), (-2, -1, 1, 1), 50))).convert("RGB")
    cmyk, lab, ycc = (image.convert(mode) for mode in ("CMYK", "LAB", "YCbCr"))
    for order, deflate in product(ORDERS, (False, True)):
        for bits in (8, 16):
            inks = np.asarray(cmyk).astype(TYPES[bits]) * (2**bits // 255)
            assert_near(tiff(inks, bits, 5, order=order, deflate=deflate), np.asarray(cmyk.convert("RGB")))
        assert_near(tiff(np.asarray(lab), 8, 8, order=order, deflate=deflate), np.asarray(lab.convert("RGB")))
        even = tiff(np.asarray(ycc), 8, 6, order=order, deflate=deflate, tags={530: [1, 1]})
        assert_near(even, np.asarray(ycc.convert("RGB")), most=2)
        assert not is_read(tiff(np.asarray(cmyk), 8, 5, order=order, deflate=deflate, planar=True), np.zeros(()))
    assert not is_read(tiff(np.asarray(ycc), 8, 6, tags={530: [2, 2]}), np.zeros(()))


def test_a_preview_is_not_taken_for_the_photo() -> None:
    values = samples(8, 3)
    for tags in ({254: [1], 330: [8]}, {50706: [1, 4, 0, 0]}):
        with pytest.raises(ImageError, match="rawpy"):
            decode(tiff(values, 8, 2, tags=tags), "a.tif")
    assert_near(tiff(values, 8, 2, tags={254: [1]}), values)
    assert_near(tiff(values, 8, 2), values)
    with pytest.raises(ImageError, match="rawpy"):
        decode(tiff(values, 8, 2), "photo.NEF")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_grey_that_is_transparent_in_png(bits: int) -> None:
    values = samples(bits)
    assert_near(png(values, bits, 0), twin(values, bits), "a.png")
    for key in (0, 2**bits - 1, int(values[5, 5])):
        clear = np.where(values == key, 255, twin(values, bits))
        assert_near(png(values, bits, 0, tRNS=struct.pack(">H", key)), clear, "a.png")


@pytest.mark.parametrize("bits", [8, 16])
def test_the_colour_that_is_transparent_in_png(bits: int) -> None:
    values = samples(bits, 3)
    values[2, 2], values[2, 3] = values[1, 1], values[1, 1] ^ np.array([0, 0, 1], values.dtype)
    clear = twin(values, bits)
    clear[1, 1] = clear[2, 2] = 255  # and not its neighbour, which differs in the lowest bit
    data = png(values, bits, 2, tRNS=struct.pack(">3H", *values[1, 1].tolist()))
    assert_near(data, clear, "a.png")
    assert_near(png(values, bits, 2), twin(values, bits), "a.png")


@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_of_png(bits: int) -> None:
    for channels, colour in ((2, 4), (4, 6)):
        high = samples(bits, channels) >> (bits - 8)  # of 16 bits the high bytes are what is kept
        shown = on_white(high[..., :-1], high[..., -1:], 8)
        assert_near(png(samples(bits, channels), bits, colour), shown, "a.png")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_png(bits: int) -> None:
    values, rng = samples(bits), np.random.default_rng(bits)
    palette = rng.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    for told in (0, 1, 2**bits):
        alpha = np.full((2**bits, 1), 255)
        alpha[:told, 0] = rng.integers(0, 255, told)
        chunks = {"PLTE": palette.tobytes()} | ({"tRNS": alpha[:told].astype(np.uint8).tobytes()} if told else {})
        assert_near(png(values, bits, 3, **chunks), on_white(palette, alpha, 8)[values], "a.png")


@pytest.mark.parametrize("maxval", [1, 3, 100, 255, 256, 1023, 4095, 65535])
def test_netpbm_with_every_greatest_value(maxval: int) -> None:
    for channels in ((), (3,)):
        values = np.random.default_rng(0).integers(0, maxval + 1, (H, W, *channels))
        values.flat[0] = maxval
        for plain in (False, True):
            assert_near(netpbm(values, maxval, plain), np.round(values * 255 / maxval), "a.ppm")


def test_bitmaps_and_floats_of_netpbm() -> None:
    ink = np.random.default_rng(0).random((H, W)) > 0.5
    assert_near(encoded(Image.fromarray(~ink), "PPM"), np.where(ink, 0, 255), "a.pbm")
    values = np.random.default_rng(0).random((H, W)).astype(np.float32)
    floats = encoded(Image.fromarray(values), "PPM")
    assert_near(floats, np.round(values * 255), "a.pfm")
    swapped = floats.replace(b"-1.0", b"1.0", 1)[: -values.nbytes] + values[::-1].astype(">f4").tobytes()
    assert_near(swapped, np.round(values * 255), "a.pfm")
    with pytest.raises(ImageError, match="scale of 255"):
        decode(floats.replace(b"-1.0", b"-255", 1), "a.pfm")


def test_a_codestream_that_contradicts_its_header_or_is_signed() -> None:
    data = encoded(Image.fromarray(samples(8)), "JPEG2000", irreversible=False)
    assert_near(data, samples(8), "a.jp2")
    start = data.index(b"\xff\x4f\xff\x51") + 8
    wider = data[:start] + struct.pack(">I", 30_000) + data[start + 4 :]
    with pytest.raises(ImageError, match="30000 x 16"):
        decode(wider, "a.jp2")
    signed = data[: start + 34] + b"\x87" + data[start + 35 :]
    with pytest.raises(ImageError, match="signed"):
        decode(signed, "a.jp2")


def displayed(stored: Values, orientation: int) -> Values:
    """What a viewer shows, after the EXIF 2.3 table of tag 274, in numpy's words."""
    turned = stored if orientation < 5 else np.swapaxes(stored, 0, 1)
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return turned[:: -1 if down else 1, :: -1 if across else 1]


TURNED: dict[str, Callable[[Values, Image.Exif], bytes]] = {
    "png": lambda v, exif: encoded(Image.fromarray(v), "PNG", exif=exif),
    "tiff": lambda v, exif: encoded(Image.fromarray(v), "TIFF", exif=exif),
    "tiff 16": lambda v, exif: tiff(v[..., 0].astype(np.uint16) * 257, 16, tags={274: [exif[274]]}),
    "tiff signed": lambda v, exif: tiff((v[..., 0] // 2).astype(np.int8), 8, kind=2, tags={274: [exif[274]]}),
    "webp": lambda v, exif: encoded(Image.fromarray(v), "WEBP", exif=exif, lossless=True),
    "jpeg": lambda v, exif: encoded(Image.fromarray(v), "JPEG", exif=exif, quality=100, subsampling=0),
    "avif": lambda v, exif: encoded(Image.fromarray(v), "AVIF", exif=exif, quality=100, subsampling="4:4:4"),
    "avif alpha": lambda v, exif: encoded(Image.fromarray(v).convert("RGBA"), "AVIF", exif=exif, quality=100),
}


@pytest.mark.parametrize("case", TURNED)
def test_orientation_by_path_and_by_object_opened_loaded_or_copied(case: str) -> None:
    grey = np.linspace(0, 255, H * W).reshape(H, W).astype(np.uint8)
    stored = np.dstack([grey] * 3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        data = TURNED[case](stored, exif)
        shown = pixels_of(data, "a")
        assert np.abs(shown.astype(int) - displayed(stored, orientation)).max() <= 4, orientation
        loaded = Image.open(io.BytesIO(data))
        loaded.load()
        copies = () if case == "tiff signed" else (loaded.copy(),)  # which have no header
        for given in (loaded, upright_rgb(loaded, "x"), *copies):
            assert np.array_equal(np.asarray(upright_rgb(given, "image 0")), shown), orientation


def test_a_loaded_picture_has_lost_the_low_bytes_of_its_key() -> None:
    loaded = Image.open(io.BytesIO(png(samples(16, 3), 16, 2, tRNS=struct.pack(">3H", 1, 2, 3000))))
    loaded.load()
    with pytest.raises(ImageError, match="of 16 bits"):
        upright_rgb(loaded, "x")


def test_objects_without_a_header() -> None:
    deep = Image.fromarray(samples(16))
    assert np.array_equal(np.asarray(upright_rgb(deep, "x"))[..., 0], samples(16) >> 8)
    with pytest.raises(ImageError, match="do not tell what white is"):
        upright_rgb(Image.fromarray(samples(8).astype(np.int32)), "x")
    frames = [Image.new("P", (16, 16), i) for i in (1, 2)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200])
    second = Image.open(io.BytesIO(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])))
    second.seek(1)
    assert (np.asarray(upright_rgb(second, "x")) == (0, 0, 200)).all()
