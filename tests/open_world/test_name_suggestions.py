"""Names for groups: the right ones with a model that knows them, counted on the known classes, and honest about few."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.errors import UsageError
from clip_fewshot.features.encode import encode_images
from clip_fewshot.features.texts import class_texts
from clip_fewshot.open_world import name_suggestions
from clip_fewshot.open_world.name_suggestions import KnownClasses, suggest_names

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart", "arrow", "hexagon", "crescent")
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load_backbone("mini")


@pytest.fixture(scope="module")
def pictures(mini: Backbone, digits: ImageDataset) -> KnownClasses:
    rows = np.concatenate([np.flatnonzero(digits.labels == c)[:24] for c in range(10)])
    found = encode_images(mini, digits.subset(rows))
    return KnownClasses(found.features, found.labels, digits.label_space.names)


def without(known: KnownClasses, hidden: int) -> tuple[np.ndarray, KnownClasses]:
    """The features of one class, and the others as what is known."""
    kept = [c for c in range(len(known.names)) if c != hidden]
    rows = known.labels != hidden
    names = [known.names[c] for c in kept]
    return known.features[~rows], KnownClasses(known.features[rows], np.searchsorted(kept, known.labels[rows]), names)


def test_each_digit_held_out_gets_its_own_name(mini: Backbone, pictures: KnownClasses) -> None:
    """End to end with the shipped model, among the names of other digits, which may not be given, and of shapes."""
    words = [*pictures.names, *SHAPES]
    for hidden, name in enumerate(pictures.names):
        group, known = without(pictures, hidden)
        found = suggest_names(mini, group, known, words)
        assert found.names[0][0] == name
        assert found.names[0][1] > 0.5
        assert len(found.names) == 5
        assert not {word for word, _ in found.names} & set(known.names)
        assert (found.n_known, found.listed, found.note) == (9, 9, "")
        assert found.first >= 8


def test_the_right_name_is_found_among_all_nouns(mini: Backbone, pictures: KnownClasses) -> None:
    group, known = without(pictures, 2)
    found = suggest_names(mini, group, known)
    assert found.names[0][0] == "two"
    assert found.first >= 7
    assert not found.none_fits


def test_scores_are_cosines_of_differences(mini: Backbone, pictures: KnownClasses) -> None:
    """A loop over the definition."""
    group, known = without(pictures, 4)
    words = ["four", "circle", "star", "heart"]
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    texts = [unit(t.astype(np.float64)) for t in class_texts(mini, words, TEMPLATES[:1]).values()]
    mean_word = np.mean(texts, axis=0)
    classes = [unit(np.mean([unit(x) for x in known.features[known.labels == c]], axis=0)) for c in range(9)]
    contrast = unit(unit(np.mean([unit(x) for x in group], axis=0)) - np.mean(classes, axis=0))
    scores = {w: float(contrast @ unit(t - mean_word)) for w, t in zip(words, texts, strict=True)}
    found = suggest_names(mini, group, known, words, top=4)
    assert [w for w, _ in found.names] == sorted(words, key=lambda w: -scores[w])


def test_a_right_name_is_seldom_called_none_fits() -> None:
    """Over 2,000 draws in which the group is a class like the known ones; a group without a fitting word is caught."""
    flagged, caught = 0, 0
    vocabulary = [f"w{i}" for i in range(40)]
    for _ in range(2000):
        scores = RNG.normal(size=(13, 40)) * 0.2
        own = np.arange(12)
        scores[np.arange(13), np.r_[own, 39]] += RNG.normal(1.0, 0.2, size=13)
        flagged += name_suggestions._suggestions(vocabulary, scores, own, 5, 0.1).none_fits
        scores[-1, 39] = 0
        caught += name_suggestions._suggestions(vocabulary, scores, own, 5, 0.1).none_fits
    assert flagged / 2000 < 0.1 + 3 * (0.1 * 0.9 / 2000) ** 0.5
    assert caught / 2000 > 0.7


def test_few_known_classes_say_so(mini: Backbone, pictures: KnownClasses) -> None:
    group, known = without(pictures, 0)
    few = KnownClasses(known.features[known.labels < 2], known.labels[known.labels < 2], known.names[:2])
    found = suggest_names(mini, group, few, SHAPES)
    assert found.note.startswith("whether no name fits is told from 9 known classes on (alpha = 0.1), and there are 2")
    assert not found.none_fits
    assert found.p_value >= 1 / 3
    assert suggest_names(mini, group, few, SHAPES, alpha=0.4).note == ""


def test_names_that_mean_nothing_to_the_model_are_told(mini: Backbone, pictures: KnownClasses) -> None:
    group, known = without(pictures, 0)
    coded = known._replace(names=[f"qzx{i}" for i in range(9)])
    found = suggest_names(mini, group, coded, [*SHAPES, "zero"])
    assert "would have put the right name among the first 5 for" in found.note
    assert found.names[0][1] < 0.5


def test_names_are_read_as_they_are_spoken(mini: Backbone, pictures: KnownClasses) -> None:
    group, known = without(pictures, 0)
    renamed = known._replace(names=["Letter_A", *known.names[1:]])
    found = suggest_names(mini, group, renamed, ["letter  a", "Zero", "zero", "star"], top=9)
    assert sorted(word for word, _ in found.names) == ["star", "zero"]


@pytest.mark.parametrize("change", [{"words": []}, {"alpha": 0.0}, {"features": np.empty((0, 128))}])
def test_nothing_to_name_is_refused(mini: Backbone, pictures: KnownClasses, change: dict[str, object]) -> None:
    group, known = without(pictures, 0)
    with pytest.raises(UsageError, match="a picture, a known class and a word or more"):
        suggest_names(**({"backbone": mini, "features": group, "known": known, "words": SHAPES} | change))
