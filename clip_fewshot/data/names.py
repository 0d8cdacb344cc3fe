"""File names as they are shown, compared and sorted."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from clip_fewshot.errors import DataError, UsageError

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

# Cyrillic and Greek letters that are drawn as Latin ones, and those.
LOOKALIKES = str.maketrans(
    "АВЕКМНОРСТУХІЈЅԚԜаеорсухіјѕԛԝһԁΑΒΕΖΗΙΚΜΝΟΡΤΥΧαικνορτυχ",
    "ABEKMHOPCTYXIJSQWaeopcyxijsqwhdABEZHIKMNOPTYXaikvoptux",
)
# Fillers and variation marks that print nothing and are no format characters.
UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(c) for c in range(0xFE00, 0xFE10)}

UNFIT = re.compile(r'[/\\:*?"<>|\x00-\x1f]')  # for the name of a folder on some system
LONGEST_LABEL = 60  # characters of a folder's name: in any script fewer bytes than the 255 that systems take
LISTED = 5  # offenders an error names before it only counts


def escape(name: str | Path) -> str:
    """``name`` for a message: what would not print (newlines, bytes that are no UTF-8, bidi marks) as escapes."""
    text = str(name)
    if text.isprintable():  # nearly all, and several times a picture
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def to_unicode(name: str | Path) -> str:
    """``name`` as text that any file or database takes: bytes that are no UTF-8 as escapes."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def folder_name(name: str) -> str:
    """What the folder of a class is called, on any system."""
    return UNFIT.sub("_", name)[:LONGEST_LABEL].strip(". ") or "_"


def number(n: int, noun: str, plural: str | None = None) -> str:
    """1 picture, 1,797 pictures."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def sort_key(name: str | Path) -> bytes:
    """Sort key that does not depend on locale, platform or the order in which a folder is listed."""
    return str(name).encode("utf-8", "surrogatepass")


def fold_name(name: str) -> str:
    """What two names share when they are the same to a person: no case, no spaces, nothing unseen, NFKC."""
    folded = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    return "".join(c for c in folded if c not in UNSEEN and unicodedata.category(c) != "Cf")


def shape_of(name: str) -> str:
    """What two names share when they look alike: letters of other scripts are what they show, 01 and 1.0 are 1."""
    shown = fold_name(unicodedata.normalize("NFKC", name).translate(LOOKALIKES))
    return re.sub(r"^0+(?=\d)|\.0+$|[_-]", "", shown)


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


def refuse_names(names: Iterable[str], where: str, fix: str = "rename or merge these classes") -> list[str]:
    """Stop where classes cannot have these names together; warnings on those that only look alike.

    Names that differ by case, spaces or the way letters are encoded are the same; single letters may.

    Raises:
        DataError: every name that is blank, "unknown", or the same as another.
    """
    distinct = sorted(set(names), key=sort_key)
    problems = [f"{name!a}: nothing that shows" for name in distinct if not fold_name(name)]
    problems += [f"{name!a}: what answers say where there is no class" for name in distinct if _is_no_class(name)]
    problems += [f"{both}: the same but for case, spaces or encoding" for both in _alike(distinct, fold_name)]
    if problems:
        got = f"{len(problems)} that cannot be used:{list_first(problems)}\n"
        raise DataError(expected="class names that are told apart", got=got, fix=fix, where=where)
    joint = [ascii(name) for name in distinct if len(own := _split(name)) > 1 and own <= {*distinct}]
    listed = [f"class names that join other classes, as of pictures with several labels: {', '.join(joint[:LISTED])}"]
    return [f"class names that look the same: {both}" for both in _alike(distinct, shape_of)] + listed * bool(joint)


def _split(name: str) -> set[str]:
    """The names that ``cat|dog`` or ``['cat', 'dog']`` is made of."""
    return {part.strip(" []'\"") for part in re.split(r"[|,;&+]", name)}


def _is_no_class(name: str) -> bool:
    return shape_of(name) == NO_CLASS


def _alike(names: Sequence[str], fold: Callable[[str], str]) -> list[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[fold(name)].append(name)
    letters = frozenset(string.ascii_letters)  # classes of their own in sets of handwriting
    return [
        " and ".join(map(ascii, group)) for group in groups.values() if len(group) > 1 and not letters.issuperset(group)
    ]


def check_class_name(name: str, existing: Collection[str]) -> str:
    """``name`` if it can be that of a further class.

    Raises:
        UsageError: empty, with characters that do not print or blanks at an end, "unknown", or one that a person would
            take for a class that is there already.
    """
    text = isinstance(name, str) and name.isprintable() and name == name.strip()
    if not text or not 0 < len(name) <= MAX_NAME_LENGTH:
        expected = f"a name of 1 to {MAX_NAME_LENGTH} printing characters, without blanks at its ends"
        raise UsageError(
            expected=expected, got=repr(name)[: 2 * MAX_NAME_LENGTH], fix="choose another one", where="class name"
        )
    if _is_no_class(name):
        raise UsageError(
            expected="the name of a class",
            got=repr(name),
            fix="it is what answers say where there is none",
            where="class name",
        )
    folds = (fold_name, shape_of)[: len(name)]  # letters of several alphabets may be classes of their own
    same = [one for one in existing if any(_alike((one, name), fold) for fold in folds)]
    if same:
        fix = "choose another name, or add the pictures to that class with assign"
        raise UsageError(
            expected="a name that no class has", got=f"{name!r} beside {same[0]!r}", fix=fix, where="class name"
        )
    return name
