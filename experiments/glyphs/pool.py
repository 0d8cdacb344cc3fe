"""The pool: every glyph that training or validation may draw, as distance fields with their class and source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clip_fewshot.runtime.rng import generator
from experiments.glyphs import shapes, strokes, typefaces
from experiments.glyphs.fields import Field
from experiments.glyphs.handwriting import invent, invented_name, write_many

SOURCES = ("handwritten", "printed", "drawn")
UNSEEN_LETTERS = ("A", "B", "E", "G", "H", "K", "M", "R", "a", "e")  # never trained: the transfer test
N_UNSEEN_MARKS = 10


@dataclass(frozen=True)
class GlyphClass:
    """What a glyph shows: the words for it (any of ``names``) and the kind of thing it is."""

    names: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Pool:
    """Fields (n, s, s) with their class, source and group, and how often each group is drawn."""

    classes: tuple[GlyphClass, ...]
    fields: NDArray[np.uint8]
    class_of: NDArray[np.int64]
    source_of: NDArray[np.int64]
    weight_of: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.fields)

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """(n,) rows, by weight."""
        ends = np.cumsum(self.weight_of)
        rows: NDArray[np.int64] = np.searchsorted(ends, rng.random(n) * ends[-1], side="right")
        return rows


@dataclass(frozen=True)
class _Entry:
    name: GlyphClass
    source: str
    fields: Sequence[Field]
    share: float


def training_pool(seed: int, hands: int = 500, marks: int = 120, faces: int = len(typefaces.LATIN_FACES)) -> Pool:
    """The glyphs that training sees.

    Args:
        seed: of the imagined hands and the invented characters.
        hands: handwritten versions of each digit; letters and marks get a tenth.
        marks: number of invented characters.
        faces: number of typefaces; the default is all.
    """
    rng = generator(seed, "glyph pool")
    written = [*_digits(hands, faces, rng), *_letters(hands, faces, rng), *_marks(marks, hands, rng)]
    return _collect([*written, *_signs(faces), *_shapes(hands, rng)])


def unseen_letters(seed: int, hands: int) -> Pool:
    """Handwritten letters of classes that training never sees."""
    rng = generator(seed, "unseen letters")
    classes = [(_letter(c), strokes.LETTERS[c]) for c in UNSEEN_LETTERS]
    return _collect([_Entry(name, "handwritten", write_many(ways, hands, rng), 1.0) for name, ways in classes])


def unseen_hands(seed: int, hands: int) -> Pool:
    """Digits in the one way of writing each that training never sees."""
    rng = generator(seed, "unseen hands")
    written = [(_digit(d), write_many(strokes.DIGITS[d][-1:], hands, rng)) for d in strokes.DIGITS]
    return _collect([_Entry(name, "handwritten", fields, 1.0) for name, fields in written])


def _digit(name: str) -> GlyphClass:
    return GlyphClass((name, name, str(list(strokes.DIGITS).index(name))), "digit")


def _letter(character: str) -> GlyphClass:
    return GlyphClass((f"{'capital' if character.isupper() else 'small'} letter {character.lower()}",), "letter")


def _digits(hands: int, faces: int, rng: np.random.Generator) -> Iterator[_Entry]:
    for i, (name, ways) in enumerate(strokes.DIGITS.items()):
        yield _Entry(_digit(name), "handwritten", write_many(ways[:-1], hands, rng), 5.5)
        yield _Entry(_digit(name), "printed", typefaces.print_all(str(i), typefaces.LATIN_FACES[:faces]), 0.5)


def _letters(hands: int, faces: int, rng: np.random.Generator) -> Iterator[_Entry]:
    for character in "ABCDEFGHJKLMNPQRSTUVWXYZabdefghijkmnpqrtuwy":
        if character in UNSEEN_LETTERS:
            continue
        yield _Entry(_letter(character), "printed", typefaces.print_all(character, typefaces.LATIN_FACES[:faces]), 0.25)
        if character in strokes.LETTERS:
            yield _Entry(
                _letter(character), "handwritten", write_many(strokes.LETTERS[character], max(2, hands // 8), rng), 0.5
            )


def _marks(marks: int, hands: int, rng: np.random.Generator) -> Iterator[_Entry]:
    for i in range(marks):
        name = GlyphClass((invented_name(i),), "mark")
        yield _Entry(name, "handwritten", write_many([invent(rng)], max(2, hands // 10), rng), 0.14)


def _signs(faces: int) -> Iterator[_Entry]:
    scripts = {
        "letter": typefaces.GREEK + typefaces.CYRILLIC + typefaces.ARMENIAN_GEORGIAN,
        "sign": typefaces.SIGNS,
        "symbol": typefaces.PICTOGRAMS,
    }
    for kind, characters in scripts.items():
        for character in characters:
            fields = typefaces.print_all(character, typefaces.UNICODE_FACES[:faces])
            if fields:
                yield _Entry(GlyphClass((typefaces.spoken(character),), kind), "printed", fields, 0.06)


def _shapes(hands: int, rng: np.random.Generator) -> Iterator[_Entry]:
    for name in shapes.SHAPES:
        drawn = [shapes.draw_shape(name, rng) for _ in range(max(2, hands // 10))]
        yield _Entry(GlyphClass((name,), "shape"), "drawn", drawn, 0.3)


def _collect(entries: Sequence[_Entry]) -> Pool:
    classes = tuple(dict.fromkeys(entry.name for entry in entries))
    index = {name: i for i, name in enumerate(classes)}
    counts = [len(entry.fields) for entry in entries]
    return Pool(
        classes=classes,
        fields=np.stack([field for entry in entries for field in entry.fields]),
        class_of=np.repeat([index[entry.name] for entry in entries], counts),
        source_of=np.repeat([SOURCES.index(entry.source) for entry in entries], counts),
        weight_of=np.repeat([entry.share / len(entry.fields) for entry in entries], counts),
    )
