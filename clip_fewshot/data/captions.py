"""Captions from class names: the seeded grammar for training pairs, the templates for zero-shot."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from clip_fewshot.data.names import number, speak_name
from clip_fewshot.data.templates import check_templates, fill_template
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.rng import generator

ADJECTIVES = (
    "simple", "interesting", "strange", "freshly captured", "clear", "old", "unusual", "unedited",
    "colourful", "honest", "quiet", "everyday", "striking", "ordinary", "rare", "plain",
)  # fmt: skip
NOUNS = ("photo", "frame", "image", "picture", "snapshot")
LOCATIONS = (
    "archive", "newspaper", "magazine", "journal", "webpage", "album", "catalogue", "collection",
    "exhibition", "encyclopedia", "report", "museum",
)  # fmt: skip

TEMPLATES: tuple[str, ...] = (
    "a photo of a {}",
    "a picture of the {}",
    "an image that shows a {}",
    "a close view of one {}",
    "a small picture of a {}",
    "a blurred photo of the {}",
    "this is a {}",
)

# Written with a vowel, spoken with a consonant: "yoo" (unicorn, user, European) or "w" (one, Ouija).
_YOO_OR_W = re.compile(
    r"uni(?!n|m(?!od)|d(?!ir))|us[aeu]|ut[aeio]|ubi|uk|ur[ai]|ufo|u\b|eu|ewe|one(?![ri])|once|oui", re.IGNORECASE
)
_SILENT_H = re.compile(r"hour|honest|honou?r|heir", re.IGNORECASE)
_SPELLED_VOWEL = "AEFHILMNORSX"  # letters whose names start with a vowel


def article(phrase: str) -> str:
    """The article "a" or "an", by the sound the phrase starts with.

    An hour, a unicorn, an X-ray, a one-off, an 8-bit image. Spelling rules with the usual exceptions, not a pronouncing
    dictionary; abbreviations of up to three capitals, or without a vowel, are taken as spelled out (an MRI scan, a
    UFO).
    """
    match = re.search(r"[0-9]+|[^\W_]+", phrase)
    word = match.group() if match else ""
    if word.isdigit():
        vowel = word[0] == "8" or word in ("11", "18")
    elif word.isupper() and (len(word) <= 3 or not re.search("[AEIOUY]", word)):
        vowel = word[0] in _SPELLED_VOWEL
    else:
        written = re.match("[aeiouà-æè-ïò-öù-ü]", word, re.IGNORECASE) is not None
        vowel = (written and not _YOO_OR_W.match(word)) or _SILENT_H.match(word) is not None
    return "an" if vowel else "a"


class CaptionGenerator:
    """Seeded captions: "This is a/an {adjective} {noun} of the {label} from the {location}".

    Each class has its own order of all captions the grammar holds, a permutation that depends on the seed and the
    label alone. Calls walk through it, so captions repeat only after all were used, and asking for one class never
    moves the captions of another.

    Args:
        seed: any integer.
        adjectives, nouns, locations: the words; by default 16 x 5 x 12 = 960 captions per class.
        templates: texts with one "{}" in place of all that; empty: that grammar.

    Raises:
        UsageError: words of a kind are missing, or a class without a name.

    Example:
        >>> import clip_fewshot as cf
        >>> captions = cf.CaptionGenerator(seed=0)
        >>> captions("bee")
        'This is a clear image of the bee from the webpage'
        >>> len(captions.bank("bee", 100))
        100
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        adjectives: Sequence[str] = ADJECTIVES,
        nouns: Sequence[str] = NOUNS,
        locations: Sequence[str] = LOCATIONS,
        templates: Sequence[str] = (),
    ) -> None:
        self.seed = seed
        self._templates = tuple(dict.fromkeys(check_templates(templates))) if templates else ()
        self._words = tuple(tuple(dict.fromkeys(words)) for words in (adjectives, nouns, locations))
        if not all(self._words):
            got = f"{len(adjectives)}, {len(nouns)} and {len(locations)}"
            raise UsageError(expected="at least one adjective, noun and location", got=got, fix="give one of each")
        self._calls: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many distinct captions a class has."""
        if self._templates:
            return len(self._templates)
        adjectives, nouns, locations = self._words
        return len(adjectives) * len(nouns) * len(locations)

    def __call__(self, label: str) -> str:
        """The next caption of the class."""
        turn = self._calls[label] % len(self)
        self._calls[label] += 1
        return self._caption(label, int(self._order(label)[turn]))

    def bank(self, label: str, size: int) -> list[str]:
        """The first ``size`` captions of the class, all distinct; calls before it change nothing."""
        if not 0 <= size <= len(self):
            fix = "ask for fewer or add words"
            raise UsageError(
                expected=f"a bank of 0 to {number(len(self), 'caption')}", got=f"{size}", fix=fix, where="size"
            )
        return [self._caption(label, int(number)) for number in self._order(label)[:size]]

    def _order(self, label: str) -> Sequence[int]:
        order: Sequence[int] = generator(self.seed, "captions", label).permutation(len(self)).tolist()
        return order

    def _caption(self, label: str, number: int) -> str:
        if self._templates:
            return fill_template(self._templates[number], label)
        adjectives, nouns, locations = self._words
        number, place = divmod(number, len(locations))
        quality, kind = divmod(number, len(nouns))
        adjective, name = adjectives[quality], speak_name(label)
        return f"This is {article(adjective)} {adjective} {nouns[kind]} of the {name} from the {locations[place]}"
