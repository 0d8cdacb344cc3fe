"""Names and numbers as the report prints them."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

_SPACES = re.compile(r"[\t\n\r\v\f\x85\u2028\u2029]+")
# Controls, marks that turn the reading direction or hide, lone surrogates of undecodable file names, noncharacters.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff0-\uffff]"
)


def clean(value: str) -> str:
    """``value`` without control and bidirectional characters; line breaks and tabs become one space.

    A class name is a folder name and can hold anything; with these characters left in, one name could reorder or
    hide the text beside it. Escaping for HTML or SVG is the writer's work and is not done here.
    """
    return _UNSAFE.sub("", _SPACES.sub(" ", value))


def shorten(value: str, limit: int = 22) -> str:
    """:func:`clean`, and cut in the middle to ``limit`` characters: names of a data set often share their start.

    A Chinese, Japanese or Korean character counts as two, for it takes the room of two.
    """
    name = unicodedata.normalize("NFC", clean(value)).strip() or "(no name)"
    ends = list(accumulate(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in name))
    if ends[-1] <= limit:
        return name
    tail = (limit - 1) // 2
    return f"{name[: bisect_right(ends, limit - 1 - tail)]}…{name[bisect_left(ends, ends[-1] - tail) + 1 :]}"


def format_fraction(value: float | None) -> str:
    """A fraction with three decimals; a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def format_signed(value: float) -> str:
    """A difference with its sign and three decimals, the minus sign typographic."""
    return f"{value:+.3f}".replace("-", "−")


def format_interval(bounds: list[float] | tuple[float, float]) -> str:
    """``[low, high]`` with three decimals."""
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]".replace("-", "−")


def format_scalar(value: Any) -> str:
    """One setting: floats with at most three digits, true and false as yes and no, the rest as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_scalar(item) for item in value)
    if isinstance(value, Mapping):
        return format_settings(value)
    return clean(str(value))


def format_settings(params: Mapping[str, Any]) -> str:
    """Settings on one line, ``name value, name value``, by name."""
    return ", ".join(f"{clean(key).replace('_', ' ')} {format_scalar(params[key])}" for key in sorted(params))
