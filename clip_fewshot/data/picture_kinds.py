"""What kind of picture a file is: its first bytes decide, and its extension only where a format has no mark.

The plugins are called directly: Image.open would try every registered format, and its size limit is a global that other
libraries change, warns where we must refuse and refuses where we can reduce. Left out are formats of which a program
would be run (EPS), those whose size is known too late (ICO holds files of its own), and those that hold no photos.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    DdsImagePlugin,
    GifImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PcxImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    PsdImagePlugin,
    QoiImagePlugin,
    SgiImagePlugin,
    SunImagePlugin,
    TgaImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from clip_fewshot.data.names import READERS, SUFFIXES_OF, escape
from clip_fewshot.errors import DataError


class ImageError(DataError):
    """A picture that cannot be used.

    ``reason``: ``missing``, ``unreadable`` (the system refuses), ``not-regular`` (a pipe, a device, a folder),
    ``empty``, ``not-image``, ``unsupported`` (a picture, but one for another library, which is named), ``truncated``,
    ``damaged``, ``too-large``, ``shape``, ``range``.
    """

    def __init__(self, reason: str, *, expected: str, got: str, fix: str, where: str | None = None) -> None:
        super().__init__(expected=expected, got=got, fix=fix, where=where)
        self.reason = reason

    @property
    def detail(self) -> str:
        """What it is; of a picture for another library, also which."""
        return f"{self.got}; {self.fix}" if self.reason == "unsupported" else self.got


class Kind(NamedTuple):
    """A format that is read. ``marks`` begin its files; without one, the extension tells it."""

    name: str
    marks: tuple[bytes, ...]
    plugin: type[ImageFile.ImageFile]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Those that its files have."""
        return SUFFIXES_OF[self.name]


_TIFF_MARKS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_NETPBM_MARKS = tuple(
    letter + space
    for letter in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf")
    for space in (b" ", b"\t", b"\n", b"\r", b"#")
)
KINDS = (
    Kind("JPEG", (b"\xff\xd8\xff",), JpegImagePlugin.JpegImageFile),
    Kind("PNG", (b"\x89PNG\r\n\x1a\n",), PngImagePlugin.PngImageFile),
    Kind("WEBP", (b"RIFF",), WebPImagePlugin.WebPImageFile),
    Kind("GIF", (b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile),
    Kind("BMP", (b"BM",), BmpImagePlugin.BmpImageFile),
    Kind("TIFF", _TIFF_MARKS, TiffImagePlugin.TiffImageFile),
    Kind("AVIF", (), AvifImagePlugin.AvifImageFile),
    Kind("JPEG2000", (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"), Jpeg2KImagePlugin.Jpeg2KImageFile),
    Kind("NETPBM", _NETPBM_MARKS, PpmImagePlugin.PpmImageFile),
    Kind("DDS", (b"DDS ",), DdsImagePlugin.DdsImageFile),
    Kind("PSD", (b"8BPS",), PsdImagePlugin.PsdImageFile),
    Kind("QOI", (b"qoif",), QoiImagePlugin.QoiImageFile),
    Kind("SGI", (b"\x01\xda",), SgiImagePlugin.SgiImageFile),
    Kind("SUN", (b"\x59\xa6\x6a\x95",), SunImagePlugin.SunImageFile),
    Kind("PCX", (), PcxImagePlugin.PcxImageFile),
    Kind("TGA", (), TgaImagePlugin.TgaImageFile),
)
_BY_NAME = {kind.name: kind for kind in KINDS}
# As Pillow calls them, of those that their content tells.
PILLOW_NAMES = frozenset(("MPO", "AVIF", *(kind.plugin.format for kind in KINDS if kind.marks)))
# Packages that decode what Pillow does not of a format; imagecodecs of any other.
DECODERS = {"TIFF": "tifffile", "PSD": "psd-tools", "BMP": "opencv-python", "NETPBM": "opencv-python"}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
# Pictures that something else reads: their marks, what they are, and the Python package that reads them.
_FOREIGN = {
    b"\xff\x0a": ("JPEG XL", "pillow-jxl-plugin"),
    b"\0\0\0\x0cJXL \r\n\x87\n": ("JPEG XL", "pillow-jxl-plugin"),
    b"II\xbc": ("JPEG XR", "imagecodecs"),
    b"\0\0\1\0": ("an icon", "Pillow"),
    b"v/1\x01": ("OpenEXR", "opencv-python"),
    b"#?R": ("Radiance HDR", "opencv-python"),
    b"P7": ("PAM", "opencv-python"),
    b"PF": ("PFM in colour", "opencv-python"),
    b"SIMPLE  =": ("FITS", "astropy"),
    b"FUJIFILMCCD-RAW": ("a raw photo", "rawpy"),
    b"IIRO": ("a raw photo", "rawpy"),
    b"IIRS": ("a raw photo", "rawpy"),
    b"IIU\0": ("a raw photo", "rawpy"),
    b"FOVb": ("a raw photo", "rawpy"),
    b"<svg": ("SVG", "cairosvg"),
}


def kind_of(data: bytes, path: str | Path) -> Kind:
    """The format of ``data``, the content of ``path``.

    Raises:
        ImageError: ``empty``, ``not-image``, ``truncated``, or ``unsupported``: a picture for another library.
    """
    name, suffix = escape(path), Path(path).suffix.lower()
    if not data:
        raise ImageError(
            "empty", expected="a picture", got="a file of zero bytes", fix="replace or delete it", where=name
        )
    foreign = _foreign(data, suffix)
    if foreign is not None:
        raise unsupported(*foreign, name)
    found = next((kind for kind in KINDS if kind.marks and data.startswith(kind.marks)), None)
    if found is None and data[4:8] == b"ftyp" and _brands(data) & _AVIF_BRANDS:
        found = _BY_NAME["AVIF"]
    if found is None:
        found = next((kind for kind in KINDS if not kind.marks and suffix in kind.suffixes), None)
    if found is None and READERS.get(suffix) == "Pillow":
        raise unsupported(suffix[1:].upper(), "Pillow", name)
    if found is None or (found.name == "WEBP" and data[8:12] != b"WEBP"):
        known = ", ".join(_BY_NAME)
        got = f"content starting {data[:12]!r}"
        raise ImageError("not-image", expected=f"one of {known}", got=got, fix="convert or delete it", where=name)
    if found.name == "WEBP" and len(data) < int.from_bytes(data[4:8], "little"):
        got = f"{len(data)} bytes"
        raise ImageError("truncated", expected="a whole WEBP picture", got=got, fix="replace the file", where=name)
    return found


def unsupported(what: str, reader: str, name: str) -> ImageError:
    """The refusal of a sound picture that is not decoded here, with the package that decodes it."""
    fix = f"convert it to PNG or JPEG, for instance with the Python package {reader}"
    return ImageError("unsupported", expected="a format that is read here", got=what, fix=fix, where=name)


def _brands(data: bytes) -> set[bytes]:
    box = data[8 : max(12, int.from_bytes(data[:4], "big"))]
    return {box[i : i + 4] for i in range(0, min(len(box), 256), 4) if i != 4}


def _foreign(data: bytes, suffix: str) -> tuple[str, str] | None:
    """What else a file is, by its first bytes, and the package that reads it."""
    if data[4:8] == b"ftyp":
        brands = _brands(data)
        if b"crx " in brands:
            return "a raw photo", "rawpy"
        return ("HEIC", "pillow-heif") if brands & _HEIF_BRANDS and not brands & _AVIF_BRANDS else None
    if data.startswith(_TIFF_MARKS) and (data[8:10] == b"CR" or READERS.get(suffix) == "rawpy"):
        return "a raw photo", "rawpy"
    if data[128:132] == b"DICM":
        return "DICOM", "pydicom"
    if data.lstrip()[:5] == b"<?xml" and b"<svg" in data[:4096]:
        return "SVG", "cairosvg"
    return next((what for mark, what in _FOREIGN.items() if data.startswith(mark)), None)
