"""Printed characters, drawn from the typefaces that matplotlib ships: DejaVu, STIX and Computer Modern."""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from experiments.glyphs.fields import BODY, Field, field_of_mask

RASTER = 80
UNICODE_FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *(
        "DejaVuSansMono",
        "DejaVuSansMono-Bold",
        "STIXGeneral",
        "STIXGeneralItalic",
        "STIXGeneralBol",
        "STIXGeneralBolIta",
    ),
)
LATIN_FACES = (*UNICODE_FACES, "cmr10", "cmb10", "cmss10", "cmtt10", "cmti10")

GREEK = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπρσφχψω"
CYRILLIC = "БГДЖЗИЛПФЦЧШЩЪЫЭЮЯбвджзийлфцшыэюя"
SIGNS = "+±×÷=≠≈<>∞∫∑√∂∇∈∩∪⊂⊕⊗∀∃¬∧∨↑→↓↔⇒&%@#$€£¥§¶!?;:*/(){}[]~^†‡©"
PICTOGRAMS = "★☆♠♣♥♦♪♫☀☁☂☎☺☼♂♀⚑✈✂✉✓✗✿❄♔♕♖♗♘♙⚓⚙⚡"
ARMENIAN_GEORGIAN = "ԱԲԳԴԵԶԹԺԻԼԽԾԿՀՁՂՃՄაბგდევზთიკლმნოპჟრს"
PLAIN_NAMES = {"SOLIDUS": "slash", "ASTERISK": "asterisk"}


@cache
def _face(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_path(name)), size)


@cache
def _charmap(name: str) -> frozenset[int]:
    return frozenset(FT2Font(str(_path(name))).get_charmap())


def _path(name: str) -> Path:
    return Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")


def print_character(character: str, face: str) -> Field | None:
    """The character in a typeface, or None where the typeface lacks it."""
    if ord(character) not in _charmap(face):
        return None
    font = _face(face, RASTER)
    left, top, right, bottom = font.getbbox(character)
    width, height = round(right - left), round(bottom - top)
    if width <= 0 or height <= 0:
        return None
    inner = round(RASTER * BODY)
    sheet = Image.new("L", (width, height))
    ImageDraw.Draw(sheet).text((-left, -top), character, font=font, fill=255)
    scale = inner / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    raster = Image.new("L", (RASTER, RASTER))
    raster.paste(sheet.resize(size, Image.Resampling.BILINEAR), ((RASTER - size[0]) // 2, (RASTER - size[1]) // 2))
    return field_of_mask(np.asarray(raster) > 127)


def print_all(character: str, faces: tuple[str, ...]) -> list[Field]:
    """The character in every typeface that has it."""
    printed = (print_character(character, face) for face in faces)
    return [field for field in printed if field is not None]


def spoken(character: str) -> str:
    """Name of a character in plain words: "Σ" -> "sigma capital", "→" -> "rightwards arrow"."""
    name = unicodedata.name(character).lower()
    for script in ("greek", "cyrillic", "armenian", "georgian"):
        if name.startswith(script):
            size = "capital " if "capital" in name else ""
            return f"{script} {size}{name.split(' letter ')[-1]}"
    return name.replace(" sign", "").replace("black ", "").replace("white ", "open ").replace(" suit", "")
