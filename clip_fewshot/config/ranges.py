"""One number as an argument: of which kind, and in which range."""

from __future__ import annotations

import math
from contextlib import suppress
from numbers import Integral, Real
from typing import Any

from clip_fewshot.errors import UsageError


def require_int(value: Any, name: str, least: int = 1, most: float = math.inf, where: str | None = None) -> int:
    """``value``, if it is a whole number in [least, most]; yes, no and 2.0 are none.

    Raises:
        UsageError: another number, or no number.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        expected = f"{name} >= {least}" if most == math.inf else f"{name} in {least}..{most}"
        raise UsageError(expected=expected, got=repr(value)[:60], fix="choose a whole number", where=where)
    return int(value)


def require_sizes(**sizes: object) -> None:
    """Each, by its name, a whole number >= 1.

    Raises:
        UsageError: another one.
    """
    for name, size in sizes.items():
        require_int(size, name, where=name)


def require_real(value: Any, name: str, interval: str, where: str | None = None, fix: str = "change it") -> float:
    """``value``, if it is a finite number in ``interval``, such as "(0, 1]".

    Raises:
        UsageError: another number, or no number.
    """
    low, high = map(float, interval[1:-1].split(","))
    number = math.nan
    if not isinstance(value, bool) and isinstance(value, Real):
        with suppress(OverflowError):
            number = float(value)
    outside = not low <= number <= high or math.isinf(number)
    if outside or (interval[0] == "(" and number == low) or (interval[-1] == ")" and number == high):
        expected = f"{name} > {low:g}" if interval[0] == "(" and high == math.inf else f"{name} in {interval}"
        raise UsageError(expected=expected, got=repr(value)[:60], fix=fix, where=where)
    return number
