"""Names are made harmless, numbers readable."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_fewshot.plots import text

ANY_TEXT = st.text(st.characters(), max_size=60)  # surrogates and controls included
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@settings(deadline=None, max_examples=300)
@given(ANY_TEXT)
def test_clean_leaves_nothing_that_steers_a_terminal_or_a_page(value: str) -> None:
    cleaned = text.clean(value)
    assert not {unicodedata.category(c) for c in cleaned} & {"Cc", "Cs", "Zl", "Zp"}
    assert not set(cleaned) & BIDI
    cleaned.encode("utf-8")
    assert text.clean(cleaned) == cleaned


@settings(deadline=None, max_examples=200)
@given(ANY_TEXT, st.integers(5, 40))
def test_shorten_keeps_within_its_limit(value: str, limit: int) -> None:
    assert 0 < len(text.shorten(value, limit)) <= max(limit, len("(no name)"))


@pytest.mark.parametrize("name", ["éclair", "猫", "כלב", "🐝", "a b", "<script>", "x" * 22, "👩‍🚀"])
def test_ordinary_names_stay(name: str) -> None:
    assert text.shorten(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("猫" * 11, "猫" * 11),
        ("猫" * 12, "猫猫猫猫猫…猫猫猫猫猫"),
        ("ab" + "強" * 12, "ab強強強強…強強強強強"),
    ],
)
def test_a_wide_character_takes_the_room_of_two(name: str, shown: str) -> None:
    assert text.shorten(name) == shown


def test_clean_joins_lines_and_drops_reversals() -> None:
    assert text.clean("one\r\n\ttwo\u202egpj.exe\x00\x1b[31m\udcff") == "one twogpj.exe[31m"


def test_a_long_name_keeps_both_ends() -> None:
    assert text.shorten("vehicle_lorry_with_a_long_trailer", 15) == "vehicle…trailer"


def test_settings_are_ordered_and_short() -> None:
    params = {"unfreeze": 2, "backbone_lr": 3.1622776e-5, "flip": False, "margin": None, "sizes": [1, 2.5]}
    assert text.format_settings(params) == "backbone lr 3.16e-05, flip no, margin –, sizes 1, 2.5, unfreeze 2"


def test_numbers() -> None:
    assert (text.format_fraction(0.9416), text.format_fraction(None), text.format_signed(-0.02)) == (
        "0.942",
        "–",
        "−0.020",
    )
    assert text.format_interval([-0.01, 0.5]) == "[−0.010, 0.500]"
