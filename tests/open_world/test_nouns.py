"""The list that ships: whole, clean, and under a licence that travels with it."""

from __future__ import annotations

import re
from importlib.resources import files

from clip_fewshot.open_world.nouns import load_nouns


def test_the_list_is_sorted_lower_case_and_without_repetition() -> None:
    words = load_nouns()
    assert len(words) == 12_952
    assert list(words) == sorted(set(words))
    assert all(re.fullmatch("[a-z]+( [a-z]+)?", word) for word in words)


def test_everyday_things_are_on_it_and_abstractions_are_not() -> None:
    words = set(load_nouns())
    assert {"cat", "dog", "bee", "truck", "fire engine", "ice cream", "sunflower", "face", "nurse", "seven"} <= words
    assert not {"idea", "tuesday", "hatred", "debt", "bastard"} & words


def test_its_licences_travel_with_it() -> None:
    text = (files("clip_fewshot.open_world") / "words" / "LICENSE.txt").read_text("utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in text
    assert "Copyright 2000-2011 by Kevin Atkinson" in text
