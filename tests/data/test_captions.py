from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_fewshot.data.captions import ADJECTIVES, LOCATIONS, NOUNS, TEMPLATES, CaptionGenerator, article
from clip_fewshot.errors import UsageError

GRAMMAR = re.compile(
    rf"This is (a|an) ({'|'.join(ADJECTIVES)}) ({'|'.join(NOUNS)}) of the (.+) from the ({'|'.join(LOCATIONS)})"
)


@pytest.mark.parametrize(
    ("expected", "phrases"),
    [
        (
            "an",
            "apple, owl, interesting photo, umbrella, usher, urn, unimportant thing, uninformed guess, onerous task",
        ),
        (
            "an",
            "hour, honest man, heirloom, honour, X-ray, MRI scan, FBI agent, SVHN digit, 8-bit image, 80s car, 11, 18",
        ),
        ("an", "étude, unidentified object, 'apple', (old) photo,  ibis"),
        ("a", "bee, house, yellow car, photo, simple frame, 10, 9-volt battery, 1, honey bee, NASA probe"),
        ("a", "unicorn, university, user, European, ewe, one-off, once-in-a-lifetime shot, ukulele, UFO, U-boat"),
        ("a", "utensil, uranium rod, Ouija board, unimodal curve, unidirectional sign, US flag, 'bee'"),
    ],
)
def test_the_article_follows_the_sound(expected: str, phrases: str) -> None:
    wrong = [phrase for phrase in phrases.split(", ") if article(phrase) != expected]
    assert not wrong


@settings(deadline=None, max_examples=100)
@given(st.text())
def test_any_text_has_an_article(phrase: str) -> None:
    assert article(phrase) in ("a", "an")


def test_every_caption_follows_the_grammar() -> None:
    generator = CaptionGenerator(seed=0)
    assert len(generator) == len(ADJECTIVES) * len(NOUNS) * len(LOCATIONS) == 960
    captions = generator.bank("bee", len(generator))
    assert len(set(captions)) == 960
    for caption in captions:
        match = GRAMMAR.fullmatch(caption)
        assert match, caption
        assert match[4] == "bee"
        assert match[1] == article(match[2])


def test_the_words_of_the_originals_are_there() -> None:
    assert {"simple", "interesting", "strange", "freshly captured"} <= set(ADJECTIVES)
    assert {"photo", "frame", "image"} <= set(NOUNS)
    assert {"archive", "newspaper", "magazine", "journal", "webpage"} <= set(LOCATIONS)


def test_a_seed_fixes_the_captions() -> None:
    first, again, other = CaptionGenerator(7), CaptionGenerator(7), CaptionGenerator(8)
    walk = [first("bee") for _ in range(20)]
    assert [again("bee") for _ in range(20)] == walk
    assert [other("bee") for _ in range(20)] != walk
    assert len(set(walk)) == 20


def test_other_classes_and_earlier_calls_move_nothing() -> None:
    quiet, busy = CaptionGenerator(0), CaptionGenerator(0)
    for _ in range(5):
        busy("ant")
    assert busy("bee") == quiet("bee")
    assert busy.bank("ant", 5) == quiet.bank("ant", 5)
    assert busy.bank("ant", 50)[:5] == quiet.bank("ant", 5)


def test_classes_differ_in_more_than_the_name() -> None:
    generator = CaptionGenerator(0)
    assert [c.replace("bee", "ant") for c in generator.bank("bee", 20)] != generator.bank("ant", 20)


def test_own_words_and_the_end_of_the_grammar() -> None:
    generator = CaptionGenerator(0, adjectives=["odd", "blue", "odd"], nouns=["hour"], locations=["sea"])
    everything = {"This is an odd hour of the bee from the sea", "This is a blue hour of the bee from the sea"}
    assert {generator("bee"), generator("bee")} == everything
    assert generator("bee") in everything  # begins again
    with pytest.raises(UsageError, match="0 to 2"):
        generator.bank("bee", 3)
    with pytest.raises(UsageError, match="at least one"):
        CaptionGenerator(0, nouns=[])


def test_folder_names_are_read_as_words() -> None:
    assert "of the water lily from" in CaptionGenerator(0)("water_lily")


@pytest.mark.parametrize("label", ["", "  ", "_", "\t"])
def test_a_class_without_a_name_gets_no_caption(label: str) -> None:
    generator = CaptionGenerator(0)
    for make in (generator, lambda name: generator.bank(name, 1)):
        with pytest.raises(UsageError, match="the name of a class in a text"):
            make(label)
    assert generator("0")


def test_templates_have_one_place_each_and_are_distinct() -> None:
    assert all(template.count("{}") == 1 for template in TEMPLATES)
    assert len(set(TEMPLATES)) == len(TEMPLATES) >= 5
