"""What Pillow reads is read; what it cannot read is refused with the package that can."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clip_fewshot as cf
from clip_fewshot.data.decode import decode, upright_rgb
from clip_fewshot.data.names import READERS, SUFFIXES, SUFFIXES_OF
from clip_fewshot.data.picture_kinds import KINDS, ImageError
from tests.data.pictures import FORMATS, encoded, file_name, picture_bytes, pixels, put
from tests.data.raw_pictures import tiff

LOSSY = {"JPEG": 60, "AVIF": 60, "GIF": 60}  # greatest difference of a smooth picture
SMOOTH = np.dstack([np.linspace(0, 255, 24 * 32).reshape(24, 32).astype(np.uint8)] * 3)


def photoshop(values: np.ndarray, mode: int) -> bytes:  # type: ignore[type-arg]
    """8 bits, layers merged, not compressed; mode 1 is grey, 3 RGB, 4 CMYK with 255 for no ink."""
    planes = np.moveaxis(np.atleast_3d(values), -1, 0)
    header = struct.pack(">4sH6xHIIHH", b"8BPS", 1, len(planes), *planes.shape[1:], 8, mode)
    return header + struct.pack(">3IH", 0, 0, 0, 0) + planes.tobytes()


def sun_raster(values: np.ndarray) -> bytes:  # type: ignore[type-arg]
    """24 bits, blue first."""
    height, width, _ = values.shape
    return struct.pack(">8I", 0x59A66A95, width, height, 24, values.size, 1, 0, 0) + values[..., ::-1].tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_its_picture(format: str) -> None:
    data = encoded(Image.fromarray(SMOOTH), format)
    shown = np.asarray(decode(data, file_name(format)).image)
    assert np.array_equal(np.asarray(upright_rgb(Image.open(io.BytesIO(data)), "image 0")), shown)
    assert np.abs(shown.astype(int) - SMOOTH).max() <= LOSSY.get(format, 30 if format in ("WEBP", "JPEG2000") else 0)


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000", "TGA", "QOI", "DDS", "SGI"])
def test_alpha_lies_on_white_in_every_format(format: str) -> None:
    clear = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    clear.paste((10, 20, 30, 255), (0, 0, 32, 16))
    shown = np.asarray(decode(encoded(clear, format), file_name(format)).image)
    assert (shown[18:] >= 253).all()
    assert np.abs(shown[:14].astype(int) - (10, 20, 30)).max() <= 4


def test_photoshop_and_sun_rasters() -> None:
    values = pixels(0)
    assert np.array_equal(np.asarray(decode(photoshop(values, 3), "a.psd").image), values)
    assert np.array_equal(np.asarray(decode(photoshop(values[..., 0], 1), "a.psd").image)[..., 1], values[..., 0])
    inks = np.asarray(Image.fromarray(values).convert("CMYK"))
    expected = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    assert np.array_equal(np.asarray(decode(photoshop(255 - inks, 4), "a.psd").image), expected)
    assert np.array_equal(np.asarray(decode(sun_raster(values), "a.ras").image), values)
    with pytest.raises(ImageError, match="psd-tools"):
        decode(photoshop(values, 3).replace(b"\0\x08\0\x03", b"\0\x10\0\x03", 1), "a.psd")


FOREIGN = {
    "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
    "photo.jpg": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix", "pillow-heif"),
    "photo.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "rawpy"),
    "photo.raf": (b"FUJIFILMCCD-RAW 0201", "rawpy"),
    "photo.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n", "pillow-jxl-plugin"),
    "scan.dcm": (b"\0" * 128 + b"DICM", "pydicom"),
    "sky.fits": (b"SIMPLE  =                    T", "astropy"),
    "light.exr": (b"v/1\x01\x02\0\0\0", "opencv-python"),
    "any.pam": (b"P7\nWIDTH 8\n", "opencv-python"),
    "any.pfm": (b"PF\n8 8\n-1.0\n", "opencv-python"),
    "logo.svg": (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "cairosvg"),
    "logo.ico": (encoded(Image.fromarray(pixels(0, 32, 32)), "ICO"), "Pillow"),
    "logo.xpm": (b"/* XPM */", "Pillow"),
    "deep.jpg": (picture_bytes(0, "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "imagecodecs"),
    "odd.tif": (tiff(pixels(0), 8, 2, tags={259: [34_887]}), "tifffile"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_pictures_for_other_libraries_are_unsupported_and_not_damaged(name: str) -> None:
    data, package = FOREIGN[name]
    with pytest.raises(ImageError) as caught:
        decode(data, name)
    assert caught.value.reason == "unsupported"
    assert f"the Python package {package}" in str(caught.value)


def test_other_files_of_the_same_boxes_and_empty_names_are_no_pictures() -> None:
    for data in (b"\0\0\0\x18ftypisom\0\0\0\0mp42isom", b"<html>", b"P8 12", b"GIF88a", b"RIFF\0\0\0\0AVI "):
        with pytest.raises(ImageError) as caught:
            decode(data, "a.heic")
        assert caught.value.reason == "not-image"


def test_a_folder_reads_or_lists_every_picture(tmp_path: Path) -> None:
    for i, format in enumerate(FORMATS):
        put(tmp_path / "ant" / file_name(format), encoded(Image.fromarray(pixels(i)), format))
        put(tmp_path / "bee" / f"{i}.pgm", encoded(Image.fromarray(pixels(i)[..., 0]), "PPM"))
    for name in ("photo.heic", "photo.raf", "logo.svg"):
        put(tmp_path / "bee" / name, FOREIGN[name][0])
    put(tmp_path / "bee" / "notes.md", "no picture")
    data = cf.read_dataset(tmp_path, max_skipped=0.2)
    assert data.counts() == {"ant": len(FORMATS), "bee": len(FORMATS)}
    assert sorted((Path(s.path).name, s.reason) for s in data.skipped) == [
        ("logo.svg", "unsupported"),
        ("photo.heic", "unsupported"),
        ("photo.raf", "unsupported"),
    ]
    assert {Path(s.path).name: s.detail.count(FOREIGN[Path(s.path).name][1]) for s in data.skipped} == {
        "logo.svg": 1,
        "photo.heic": 1,
        "photo.raf": 1,
    }
    assert data.warnings == ("passed over .md files: 1",)


@pytest.mark.parametrize("name", ["@eaDir", ".@__thumb", "#recycle", "lost+found", "__MACOSX", ".ipynb_checkpoints"])
def test_folders_of_systems_are_no_classes(name: str, tmp_path: Path) -> None:
    for folder, seed in (("ant", 1), ("bee", 2), (name, 3), (f"ant/{name.lower()}", 4)):
        put(tmp_path / folder / "a.png", seed)
    put(tmp_path / "bee" / "Thumbs.db", "no picture")
    data = cf.read_dataset(tmp_path)
    assert data.counts() == {"ant": 1, "bee": 1}
    assert data.warnings == ("passed over hidden or system files: 3",)


def test_lists_of_extensions_do_not_overlap() -> None:
    assert {kind.name for kind in KINDS} == set(SUFFIXES_OF)
    assert len(SUFFIXES) == sum(map(len, SUFFIXES_OF.values()))
    assert not SUFFIXES & set(READERS)
