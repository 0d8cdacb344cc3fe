"""Texts with a place for a class name: what is one, and the eighty that OpenAI averaged for ImageNet."""

from __future__ import annotations

from collections.abc import Sequence

from clip_fewshot.data.names import speak_name
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.arrays import as_texts

PLACE = "{}"

# Alec Radford et al., 2021, section 3.1.4: "improves performance by an additional 3.5% over the single default prompt".
# From the notebook "Prompt_Engineering_for_ImageNet" of https://github.com/openai/CLIP, MIT licence, (c) 2021 OpenAI;
# the licence stands in backbones/bpe_simple_vocab_16e6.LICENSE.txt. To the letter: "a origami", "itap" for "I took a
# picture".
OPENAI_TEMPLATES: tuple[str, ...] = tuple(
    """\
a bad photo of a {}.
a photo of many {}.
a sculpture of a {}.
a photo of the hard to see {}.
a low resolution photo of the {}.
a rendering of a {}.
graffiti of a {}.
a bad photo of the {}.
a cropped photo of the {}.
a tattoo of a {}.
the embroidered {}.
a photo of a hard to see {}.
a bright photo of a {}.
a photo of a clean {}.
a photo of a dirty {}.
a dark photo of the {}.
a drawing of a {}.
a photo of my {}.
the plastic {}.
a photo of the cool {}.
a close-up photo of a {}.
a black and white photo of the {}.
a painting of the {}.
a painting of a {}.
a pixelated photo of the {}.
a sculpture of the {}.
a bright photo of the {}.
a cropped photo of a {}.
a plastic {}.
a photo of the dirty {}.
a jpeg corrupted photo of a {}.
a blurry photo of the {}.
a photo of the {}.
a good photo of the {}.
a rendering of the {}.
a {} in a video game.
a photo of one {}.
a doodle of a {}.
a close-up photo of the {}.
a photo of a {}.
the origami {}.
the {} in a video game.
a sketch of a {}.
a doodle of the {}.
a origami {}.
a low resolution photo of a {}.
the toy {}.
a rendition of the {}.
a photo of the clean {}.
a photo of a large {}.
a rendition of a {}.
a photo of a nice {}.
a photo of a weird {}.
a blurry photo of a {}.
a cartoon {}.
art of a {}.
a sketch of the {}.
a embroidered {}.
a pixelated photo of a {}.
itap of the {}.
a jpeg corrupted photo of the {}.
a good photo of a {}.
a plushie {}.
a photo of the nice {}.
a photo of the small {}.
a photo of the weird {}.
the cartoon {}.
art of the {}.
a drawing of the {}.
a photo of the large {}.
a black and white photo of a {}.
the plushie {}.
a dark photo of a {}.
itap of a {}.
graffiti of the {}.
a toy {}.
itap of my {}.
a photo of a cool {}.
a photo of a small {}.
a tattoo of the {}.
""".splitlines()
)


def check_templates(templates: Sequence[str], where: str = "templates") -> tuple[str, ...]:
    """``templates`` if each holds exactly one "{}".

    Args:
        where: what the message is about.

    Raises:
        UsageError: none at all, or some without their one place; the first of them is shown.
    """
    templates = as_texts(templates, where)
    bad = [template for template in templates if template.count(PLACE) != 1]
    if bad or not templates:
        got = f"{bad[0]!r}" + (f" and {len(bad) - 1} more" if bad[1:] else "") if bad else "none"
        fix = 'write for example "a photo of a {}"'
        raise UsageError(expected="one {} in each template", got=got, fix=fix, where=where)
    return tuple(templates)


def fill_template(template: str, name: str) -> str:
    """The text about a class, its name as :func:`speak_name` has it."""
    return template.replace(PLACE, speak_name(name))
