"""Bad pictures are refused with a reason code, odd ones read right, and nothing else ever comes out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from clip_fewshot.data import decode as module
from clip_fewshot.data import picture_files as reading
from clip_fewshot.data.decode import decode
from clip_fewshot.data.picture_files import read_regular
from clip_fewshot.data.picture_kinds import ImageError
from clip_fewshot.errors import UsageError
from tests.data.pictures import FORMATS, UNMARKED, encoded, file_name, open_image, picture_bytes, pixels, png_header


def tiff(values: np.ndarray) -> bytes:  # type: ignore[type-arg]
    return encoded(Image.fromarray(values), "TIFF")


GREY = np.linspace(0, 1, 32 * 32).reshape(32, 32)
BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zero bytes": ("empty", lambda: b""),
    "text": ("not-image", lambda: b"hello, this is no picture at all"),
    "html": ("not-image", lambda: b"<!DOCTYPE html><html><body>404</body></html>"),
    "one byte": ("not-image", lambda: b"\xff"),
    "zip": ("not-image", lambda: b"PK\x03\x04" + b"\0" * 40),
    "pdf": ("not-image", lambda: b"%PDF-1.7 " + b"\0" * 40),
    "postscript": ("not-image", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "icon": ("unsupported", lambda: encoded(Image.fromarray(pixels(0, 32, 32)), "ICO")),
    "photoshop magic and rubbish": ("damaged", lambda: b"8BPS" + b"\0" * 40),
    "half a ppm": ("truncated", lambda: encoded(Image.fromarray(pixels(0)), "PPM")[:500]),
    "half a jpeg 2000": ("truncated", lambda: encoded(Image.fromarray(pixels(0)), "JPEG2000")[:500]),
    "half an avif": ("damaged", lambda: encoded(Image.fromarray(pixels(0)), "AVIF")[:500]),
    "riff sound": ("not-image", lambda: b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 40),
    "half a jpeg": ("truncated", lambda: picture_bytes(0, "JPEG")[:500]),
    "half a png": ("truncated", lambda: picture_bytes(0, "PNG")[:500]),
    "half a webp": ("truncated", lambda: picture_bytes(0, "WEBP")[:500]),
    "half a gif": ("truncated", lambda: picture_bytes(0, "GIF")[:1200]),
    "half a bmp": ("truncated", lambda: picture_bytes(0, "BMP")[:500]),
    "half a tiff": ("truncated", lambda: picture_bytes(0, "TIFF")[:500]),
    "jpeg magic and rubbish": ("damaged", lambda: b"\xff\xd8\xff" + b"rubbish" * 9),
    "png magic and rubbish": ("truncated", lambda: b"\x89PNG\r\n\x1a\n" + b"rubbish" * 9),
    "tiff magic and rubbish": ("damaged", lambda: b"II*\0" + b"rubbish" * 9),
    "bmp magic and rubbish": ("truncated", lambda: b"BM" + b"rubbish" * 9),
    "png with a flipped byte": ("damaged", lambda: picture_bytes(0)[:600] + b"\x00\xff" + picture_bytes(0)[602:]),
    "bomb": ("too-large", lambda: png_header(13_000, 13_000)),
    "bomb beyond Pillow's limit": ("too-large", lambda: png_header(100_000, 100_000)),
    "one row": ("shape", lambda: encoded(Image.fromarray(pixels(0, 1, 2000)), "PNG")),
    "long strip": ("shape", lambda: encoded(Image.fromarray(pixels(0, 8, 808)), "PNG")),
    "tracking pixel": ("shape", lambda: encoded(Image.fromarray(pixels(0, 1, 1)), "GIF")),
    "seven pixels": ("shape", lambda: encoded(Image.fromarray(pixels(0, 7, 7)), "PNG")),
    "floats to 255": ("range", lambda: tiff((GREY * 255).astype(np.float32))),
    "floats below 0": ("range", lambda: tiff((GREY - 0.5).astype(np.float32))),
    "not a number": ("range", lambda: tiff(np.where(GREY > 0.5, np.nan, GREY).astype(np.float32))),
    "negative integers": ("range", lambda: encoded(Image.fromarray((GREY * 100 - 50).astype(np.int32)), "TIFF")),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", BAD)
def test_bad_pictures_are_refused_by_reason(case: str, tmp_path: Path) -> None:
    reason, build = BAD[case]
    path = tmp_path / "odd\nname.jpg"
    path.write_bytes(build())
    with pytest.raises(ImageError) as caught:
        open_image(path)
    assert caught.value.reason == reason
    assert "odd\\nname.jpg" in str(caught.value)


def test_a_pipe_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    reasons: list[str] = []

    def read() -> None:
        try:
            read_regular(tmp_path / "x.jpg")
        except ImageError as error:
            reasons.append(error.reason)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert reasons == ["not-regular"]


def test_folders_devices_and_absent_files(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path, "not-regular"),
        (Path("/dev/zero"), "not-regular"),
        (tmp_path / "none.jpg", "missing"),
        (tmp_path / "none.jpg" / "below", "missing"),
        (Path("a\0b.jpg"), "unreadable"),
        (tmp_path / ("x" * 300), "unreadable"),
    ):
        with pytest.raises(ImageError) as caught:
            open_image(path)
        assert caught.value.reason == reason, path


def test_a_file_beyond_the_byte_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(picture_bytes(0))
    monkeypatch.setattr(reading, "BYTE_LIMIT", 100)
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path / "a.png")
    assert caught.value.reason == "too-large"


def test_truncated_files_are_not_tolerated_by_a_global(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UsageError, match="LOAD_TRUNCATED_IMAGES"):
        decode(picture_bytes(0), "a.png")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_every_cut_is_refused_or_changes_no_pixel(format: str) -> None:
    data = picture_bytes(1, format)
    whole = np.asarray(decode(data, file_name(format)).image)
    for cut in range(0, len(data), max(1, len(data) // 150)):
        try:
            image = decode(data[:cut], file_name(format)).image
        except ImageError:
            continue
        assert np.array_equal(np.asarray(image), whole), f"cut at {cut} of {len(data)}"


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=350, deadline=None)
@given(
    format=st.sampled_from(FORMATS),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    header=st.booleans(),
)
def test_damaged_bytes_give_a_picture_or_an_image_error(
    format: str, flips: list[tuple[int, int]], header: bool
) -> None:
    data = bytearray(picture_bytes(2, format))
    for place, value in flips:
        data[place % (120 if header else len(data))] = value
    try:
        decoded = decode(bytes(data), file_name(format))
    except ImageError:
        return
    assert decoded.image.mode == "RGB"
    assert max(decoded.image.size) <= module.GREATEST_ASPECT * min(decoded.image.size)


@pytest.mark.parametrize("format", sorted({*FORMATS} - {*UNMARKED}))
def test_content_decides_and_a_lying_extension_is_noted(format: str) -> None:
    data = picture_bytes(3, format)
    honest, lying = decode(data, file_name(format)), decode(data, "a.xyz")
    assert honest.notes == ()
    assert lying.notes == ("wrong-extension",)
    assert np.array_equal(np.asarray(honest.image), np.asarray(lying.image))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several_is_read_and_noted(format: str) -> None:
    first, second = Image.new("RGB", (16, 16), (255, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 255))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(first, format, save_all=True, append_images=[second], **options)
    decoded = decode(data, f"a.{format.lower()}")
    assert decoded.notes == ("first-frame",)
    assert (np.asarray(decoded.image) == (255, 0, 0)).all()


def displayed(stored: np.ndarray, orientation: int) -> np.ndarray:  # type: ignore[type-arg]
    """What a viewer shows, after the EXIF 2.3 table of tag 274, in numpy's words."""
    turned = stored if orientation < 5 else stored.transpose(1, 0, 2)
    across = orientation in (2, 3, 6, 7)
    down = orientation in (3, 4, 7, 8)
    return turned[:: -1 if down else 1, :: -1 if across else 1]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_all_exif_orientations_give_one_picture(format: str) -> None:
    upright = pixels(4)
    for orientation in range(1, 9):
        candidates = [upright, upright.transpose(1, 0, 2)]
        stored = next(
            c[:: 1 - 2 * a, :: 1 - 2 * b]
            for c in candidates
            for a in (0, 1)
            for b in (0, 1)
            if np.array_equal(displayed(c[:: 1 - 2 * a, :: 1 - 2 * b], orientation), upright)
        )
        exif = Image.Exif()
        exif[274] = orientation
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(Image.fromarray(np.ascontiguousarray(stored)), format, exif=exif, **options)
        assert np.array_equal(np.asarray(decode(data, "a").image), upright), orientation


def test_a_turned_jpeg_is_upright() -> None:
    left_dark = Image.fromarray(np.repeat(np.array([[0] * 16 + [255] * 16], np.uint8), 24, axis=0)).convert("RGB")
    exif = Image.Exif()
    exif[274] = 6  # shown after a quarter turn clockwise: the left side comes to the top
    shown = np.asarray(decode(encoded(left_dark, "JPEG", exif=exif), "a.jpg").image)
    assert shown.shape == (32, 24, 3)
    assert shown[:12].max() < 30
    assert shown[-12:].min() > 225


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_broken_exif_data_does_not_cost_a_sound_picture(format: str) -> None:
    data = encoded(Image.fromarray(pixels(0)), format, exif=b"Exif\0\0XX\0*\0\0\0\x08", lossless=True)
    decoded = decode(data, f"a.{format.lower()}")
    assert decoded.notes == ("exif-unreadable",)
    assert np.array_equal(np.asarray(decoded.image), pixels(0))


def test_large_jpegs_are_decoded_reduced_and_others_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIXEL_LIMIT", 10_000)
    monkeypatch.setattr(module, "REDUCED_LIMIT", 60_000)
    image = Image.linear_gradient("L").convert("RGB")
    for side, reduced in ((100, 100), (160, 80), (240, 60)):
        decoded = decode(encoded(image.resize((side, side)), "JPEG"), "a.jpg")
        assert decoded.image.size == (reduced, reduced)
        assert decoded.notes == (("reduced",) if reduced < side else ())
    assert abs(np.asarray(decoded.image).mean() - np.asarray(image).mean()) < 1
    for data in (encoded(image, "JPEG"), encoded(image.resize((160, 160)), "PNG")):
        with pytest.raises(ImageError) as caught:
            decode(data, "a.jpg")
        assert caught.value.reason == "too-large"
