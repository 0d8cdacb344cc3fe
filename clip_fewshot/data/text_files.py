"""Text as a list, table or caption file holds it: the byte-order mark decides, else UTF-8."""

from __future__ import annotations

import codecs
from pathlib import Path

from clip_fewshot.data.names import escape
from clip_fewshot.errors import DataError
from clip_fewshot.runtime.reading import MOST_BYTES, open_regular

BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_text(path: Path, most: int | None = None) -> str:
    """A text file as the byte-order mark says, else strictly as UTF-8; line ends become line feeds.

    Args:
        most: bytes of its beginning to read, where all of it may be large; None: all.
    """
    try:
        with open_regular(path, MOST_BYTES if most is None else None) as file:
            data = file.read(-1 if most is None else most)
    except OSError as error:
        fix = "check path and permissions"
        raise DataError(expected="a readable text file", got=str(error), fix=fix, where=escape(path)) from error
    return decode_text(data, escape(path), cut=len(data) == most)


def decode_text(data: bytes, where: str, cut: bool = False) -> str:
    """The same for bytes that are in memory, whose last letter may be ``cut``; ``where`` is named in errors."""
    encoding = next((name for bom, name in BOMS if data.startswith(bom)), "utf-8")
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data, not cut)
        return text.replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        got = f"byte {data[error.start]:#04x} at offset {error.start}"
        raise DataError(expected="UTF-8 text", got=got, fix="save it as UTF-8", where=f"{where}:{line}") from error
