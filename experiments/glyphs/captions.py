"""Captions that state some of what is true of a picture, and the table of which caption is true of which picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.glyphs.pool import SOURCES, GlyphClass
from experiments.glyphs.scenes import ATTRIBUTES, COLOURS, GROUNDS, KINDS

UNSTATED = -1
BARE = 0.5  # share of the plain captions that are the name alone: the text tower learns the names from them first
NAMED_KINDS = ("digit", "mark", "symbol", "shape")
CLASS, KIND, SOURCE, INK, PAPER, GROUND, SIZE, COLUMN, ROW = range(len(ATTRIBUTES))
SIZES, COLUMNS, ROWS = ("small", "", "large"), ("left", "", "right"), ("top", "", "bottom")

FRAMES = (
    *("a photo of {}.", "a photo of {}", "an image of {}", "a picture of {}", "a drawing of {}", "a scan of {}", "{}"),
    *("a close-up photo of {}.", "a good photo of {}.", "a bad photo of {}.", "a cropped photo of {}.", "itap of {}."),
    *("a blurry photo of {}.", "a rendering of {}.", "a sketch of {}.", "{}, a type of character."),
    *("this is {}", "this is a photo of {}", "this is an image of {}", "a low resolution photo of {}.", "there is {}"),
)
NOUNS = ("photo", "image", "frame", "picture")
MANNERS = (
    *("simple", "interesting", "strange", "freshly captured", "typical", "beautiful", "ordinary", "old", "new", "rare"),
    *("famous", "curious", "clear", "blurry", "small", "nice", "common", "plain", "recent", "striking"),
)
CONNECTIVES = ("this is a an the of from", "on a background", "at the", "in the")
PLACES = (
    *("archive", "newspaper", "magazine", "journal", "webpage", "book", "museum", "catalogue", "album", "library"),
    *("collection", "report", "gallery", "notebook", "website", "encyclopedia", "blog", "atlas", "poster", "brochure"),
)


def article(word: str) -> str:
    """The article: "an" before a vowel sound, else "a"."""
    return "an" if word[:1].lower() in "aeiou8" and not word.startswith(("one", "u", "eu")) else "a"


class Captioner:
    """Draws captions for pictures of the given classes."""

    def __init__(self, classes: Sequence[GlyphClass]) -> None:
        self.classes = classes

    def write(
        self, attributes: NDArray[np.int64], detailed: int, rng: np.random.Generator
    ) -> tuple[list[str], NDArray[np.int64]]:
        """Captions for (b, a) pictures.

        One for each class among them that states no more than the class, so that every picture has a true one, and
        ``detailed`` more that state details of one picture each. One plain caption a class instead of one a picture
        makes the text tower's work small and is the same target.

        Returns:
            k captions and what each states: (k, a), UNSTATED where it is silent.
        """
        present, first = np.unique(attributes[:, CLASS], return_index=True)
        details = attributes[rng.choice(len(attributes), min(detailed, len(attributes)), replace=False)]
        stated = np.full((len(first) + len(details), len(ATTRIBUTES)), UNSTATED)
        stated[: len(first), CLASS] = present
        texts = [self._plain(truth, rng) for truth in attributes[first]]
        texts += [self._detailed(truth, stated[len(first) + i], rng) for i, truth in enumerate(details)]
        return texts, stated

    def _plain(self, truth: NDArray[np.int64], rng: np.random.Generator) -> str:
        if rng.random() < BARE:
            return self._name(truth, rng)
        return _frame(_with_article(self._name(truth, rng), rng.random()), rng)

    def _name(self, truth: NDArray[np.int64], rng: np.random.Generator) -> str:
        """One of the class's names, now and then with its kind before it ("digit seven")."""
        names = self.classes[int(truth[CLASS])].names
        name, kind = names[int(rng.integers(len(names)))], KINDS[int(truth[KIND])]
        return f"{kind} {name}" if kind in NAMED_KINDS and rng.random() < 0.25 else name

    def _detailed(self, truth: NDArray[np.int64], stated: NDArray[np.int64], rng: np.random.Generator) -> str:
        draws = rng.random(6)
        if draws[0] < 0.8:
            stated[CLASS], noun = truth[CLASS], self._name(truth, rng)
        else:
            stated[KIND], noun = truth[KIND], KINDS[int(truth[KIND])]
        phrase = _with_article(" ".join([*self._adjectives(truth, stated, draws), noun]), draws[1])
        return _frame(phrase + self._surroundings(truth, stated, draws), rng)

    @staticmethod
    def _adjectives(truth: NDArray[np.int64], stated: NDArray[np.int64], draws: NDArray[np.float64]) -> list[str]:
        words = []
        if draws[2] < 0.3 and SIZES[truth[SIZE]]:
            stated[SIZE] = truth[SIZE]
            words.append(SIZES[truth[SIZE]])
        if draws[3] < 0.3:
            stated[INK] = truth[INK]
            words.append(list(COLOURS)[truth[INK]])
        if draws[3] > 0.7:
            stated[SOURCE] = truth[SOURCE]
            words.append(SOURCES[truth[SOURCE]])
        return words

    @staticmethod
    def _surroundings(truth: NDArray[np.int64], stated: NDArray[np.int64], draws: NDArray[np.float64]) -> str:
        if draws[4] < 0.2:
            stated[[PAPER, GROUND]] = truth[[PAPER, GROUND]]
            return f" on a {GROUNDS[truth[GROUND]]} {list(COLOURS)[truth[PAPER]]} background"
        if draws[4] < 0.45:
            stated[PAPER] = truth[PAPER]
            return f" on {list(COLOURS)[truth[PAPER]]}"
        if draws[4] > 0.7 and COLUMNS[truth[COLUMN]]:
            stated[COLUMN] = truth[COLUMN]
            return f" on the {COLUMNS[truth[COLUMN]]}"
        if draws[4] > 0.7 and ROWS[truth[ROW]]:
            stated[ROW] = truth[ROW]
            return f" at the {ROWS[truth[ROW]]}"
        return ""


def _with_article(phrase: str, draw: float) -> str:
    if draw < 0.25:
        return phrase
    return f"the {phrase}" if draw < 0.55 else f"{article(phrase)} {phrase}"


def _frame(phrase: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.6:
        return FRAMES[int(rng.integers(len(FRAMES)))].format(phrase)
    manner, noun = MANNERS[int(rng.integers(len(MANNERS)))], NOUNS[int(rng.integers(len(NOUNS)))]
    place = PLACES[int(rng.integers(len(PLACES)))]
    return f"This is {article(manner)} {manner} {noun} of {phrase} from the {place}"


def true_of(attributes: NDArray[np.int64], stated: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(b, a) and (k, a) -> (b, k): whether caption k is true of picture b, that is, all that it states holds."""
    holds: NDArray[np.bool_] = (stated[None] == UNSTATED) | (stated[None] == attributes[:, None])
    return np.asarray(holds.all(axis=2))
