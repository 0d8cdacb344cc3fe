"""Which picture stands where: kinds, shelves of the first screen, mistakes of the matrix."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.plots.views import list_mistakes
from clip_fewshot.report.gallery import build_gallery, choose_shelves
from clip_fewshot.report.glossary import TERMS, explain
from clip_fewshot.report.page import render_page
from clip_fewshot.report.record import PredictionExample
from tests.report import sample


def example(true: str | None, said: str, sure: float, unknown: bool = False, p: float = 0.5) -> PredictionExample:
    return PredictionExample(sample.glyph("1"), true, ((said, sure),), unknown, p, None, f"{true} {said} {sure} {p}")


def test_a_shelf_holds_what_teaches_most_of_its_kind() -> None:
    record = sample.bare(
        predictions=(
            example("one", "two", 0.6),
            example("one", "two", 0.99),
            example("nine", "one", 0.9, p=0.2),
            example("nine", "one", 0.8, p=0.7),
            example("one", "one", 0.7, unknown=True, p=0.04),
            example("one", "one", 0.7, unknown=True, p=0.01),
            example("two", "two", 0.55),
            example("two", "two", 0.4),
            example("two", "two", 0.95),  # no doubt
        ),
        discovery=sample.discovery(),
    )
    gallery = build_gallery(record)
    shelves = {shelf.title: [item.place for item in shelf.items] for shelf in choose_shelves(gallery, record)}
    assert shelves == {
        "Surest mistakes": ["picture-1", "picture-0"],
        "Unknown, missed": ["picture-3", "picture-2"],
        "False alarms": ["picture-5", "picture-4"],
        "Right, but unsure": ["picture-7", "picture-6"],
        "Groups of unknown": ["group-0", "group-1", "group-2"],
    }
    assert [(kind, n) for kind, _, n in gallery.kinds] == [("wrong", 2), ("missed", 2), ("alarm", 2), ("right", 3)]


def test_a_shelf_with_nothing_is_left_out() -> None:
    record = sample.bare(predictions=(example(None, "one", 0.3),))
    assert choose_shelves(build_gallery(record), record) == []


def test_a_card_is_found_by_every_answer_that_counts_in_the_matrix() -> None:
    voted = example("one", "two", 0.6)._replace(votes=(("three", 4), ("one", 1)))
    card = build_gallery(sample.bare(predictions=(voted,))).cards[0]
    assert (card.true, card.answers) == (1, (1, 2, 3))


def test_mistakes_are_listed_by_their_number() -> None:
    assert list_mistakes(np.array([[9, 0, 2], [5, 9, 0], [0, 1, 9]]), 20) == [(1, 0, 5), (0, 2, 2), (2, 1, 1)]
    assert list_mistakes(np.eye(3, dtype=np.int64), 20) == []


def test_the_matrix_of_many_classes_is_a_drawing_with_a_list(source: str) -> None:
    counts = sample.confusion(21)
    names = tuple(f"class {i}" for i in range(21))
    page = render_page(sample.results(), sample.bare(class_names=names, confusion=counts))
    first = list_mistakes(counts, 1)[0]
    assert f'data-cell="{first.true} {first.answer}"' in page
    assert 'class="matrix"' not in page
    assert 'class="matrix"' in source


@pytest.mark.parametrize("word", ["zero-shots", "unknowns", "REER", "non-sealed", "&EER;"])
def test_only_whole_words_are_explained(word: str) -> None:
    assert "<a" not in explain(word)


def test_an_explained_text_is_escaped_and_marks_a_term_once() -> None:
    said = explain("<b>EER</b> \u202eEER & AUROC")
    assert said.startswith("&lt;b&gt;<a ")
    assert said.count("<a ") == 2
    assert "\u202e" not in said
    assert "&amp;" in said


def test_every_term_is_found_in_a_text() -> None:
    assert [term for term in TERMS if f">{term}</a>" not in explain(f"a {term}, b")] == []
