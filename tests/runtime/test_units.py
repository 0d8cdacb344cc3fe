"""Sizes, durations and moments."""

from __future__ import annotations

import re

import pytest

from clip_fewshot.runtime.units import format_moment, format_seconds, format_size


@pytest.mark.parametrize(
    ("n", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (1_234_567, "1.23 MB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (5_810_000_000, "5.81 GB"),
        (2_500_000_000_000, "2.5 TB"),
    ],
)
def test_sizes_have_three_digits(n: int, shown: str) -> None:
    assert format_size(n) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min")],
)
def test_durations(value: float, shown: str) -> None:
    assert format_seconds(value) == shown


def test_moments_are_said_in_utc() -> None:
    assert format_moment("2026-11-30T22:16:31+02:00") == "2026-11-30 20:16:31 UTC"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", format_moment())
