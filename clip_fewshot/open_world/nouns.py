"""English nouns that a picture can show, shipped with the package: what new classes may be called."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def load_nouns() -> tuple[str, ...]:
    """12,952 words and pairs of words ("soccer ball") in lower case, sorted.

    Animals, artifacts, food, plants, parts of bodies and landscapes, shapes, occupations, the numbers to ten. Which of
    WordNet's nouns these are, and under which licences: ``words/LICENSE.txt``.
    """
    return tuple((files("clip_fewshot.open_world") / "words" / "nouns.txt").read_text("utf-8").split("\n")[:-1])
