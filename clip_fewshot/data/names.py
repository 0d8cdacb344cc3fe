"""File names as they are shown, compared and sorted."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from clip_fewshot.errors import UsageError

SUFFIXES_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "NETPBM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "DDS": (".dds",),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "SUN": (".ras",),
    "PCX": (".pcx",),
    "TGA": (".tga",),
}
SUFFIXES = frozenset(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
# Pictures that are not read: listed as unreadable and not passed over like a text file lying about. Beside them the
# Python package that reads them.
READERS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif"),
    **dict.fromkeys((".jxl",), "pillow-jxl-plugin"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2"), "rawpy"),
    **dict.fromkeys((".raf", ".pef", ".srw", ".x3f", ".raw", ".3fr", ".iiq", ".kdc", ".dcr", ".mrw"), "rawpy"),
    **dict.fromkeys((".svg", ".svgz"), "cairosvg"),
    **dict.fromkeys((".dcm", ".dicom"), "pydicom"),
    **dict.fromkeys((".fits", ".fit", ".fts"), "astropy"),
    **dict.fromkeys((".exr", ".hdr", ".pam"), "opencv-python"),
    **dict.fromkeys((".jxr", ".wdp", ".hdp"), "imagecodecs"),
    **dict.fromkeys((".psb",), "psd-tools"),
    **dict.fromkeys(
        (".ico", ".cur", ".icns", ".xbm", ".xpm", ".fli", ".flc", ".dcx", ".pcd", ".eps", ".wmf", ".emf"), "Pillow"
    ),
}
# What NAS boxes, operating systems and editors put beside pictures, in lower case; names with a dot in front too.
SYSTEM_NAMES = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r", "__macosx", "__pycache__", "lost.dir"),
        *("@eadir", "@recycle", "@tmp", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "recycler"),
        *("lost+found", "system volume information", "network trash folder", "temporary items"),
    )
)
MAX_NAME_LENGTH = 100  # characters of a class name
NO_CLASS = "unknown"  # what answers say where there is no class

LISTED = 5  # offenders an error names before it only counts


def escape(name: str | Path) -> str:
    """``name`` for a message: what would not print (newlines, bytes that are no UTF-8, bidi marks) as escapes."""
    text = str(name)
    if text.isprintable():  # nearly all, and several times a picture
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def sort_key(name: str | Path) -> bytes:
    """Sort key that does not depend on locale, platform or the order in which a folder is listed."""
    return str(name).encode("utf-8", "surrogatepass")


def fold_name(name: str) -> str:
    """What two names share when a person would take them for the same: no case, no spaces, NFKC."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def list_first(offenders: Iterable[str]) -> str:
    """The first five offenders and the count of the others, one per line."""
    lines = list(offenders)
    more = [f"... and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "\n  ".join(["", *lines[:LISTED], *more])


def speak_name(name: str) -> str:
    """A class name as a text says it: underscores are the spaces that a sentence would have.

    Raises:
        UsageError: nothing is left to say.
    """
    spoken = name.replace("_", " ").strip()
    if not spoken:
        fix = "give each class a name"
        raise UsageError(expected="the name of a class in a text", got=repr(name), fix=fix, where="class name")
    return spoken


def check_class_name(name: str, existing: Collection[str]) -> str:
    """``name`` if it can be that of a further class.

    Raises:
        UsageError: empty, with characters that do not print or blanks at an end, "unknown", or one that a person would
            take for a class that is there already.
    """
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        expected = f"a name of 1 to {MAX_NAME_LENGTH} printing characters, without blanks at its ends"
        raise UsageError(
            expected=expected, got=repr(name[: 2 * MAX_NAME_LENGTH]), fix="choose another one", where="class name"
        )
    if fold_name(name) == NO_CLASS:
        raise UsageError(
            expected="the name of a class",
            got=repr(name),
            fix="it is what answers say where there is none",
            where="class name",
        )
    same = [one for one in existing if fold_name(one) == fold_name(name)]
    if same:
        fix = "choose another name, or add the pictures to that class with assign"
        raise UsageError(
            expected="a name that no class has", got=f"{name!r} beside {same[0]!r}", fix=fix, where="class name"
        )
    return name
