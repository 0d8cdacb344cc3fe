"""Texts for a picture, pictures for a text: `clip-fewshot retrieve photos/ --text "two dogs in the snow"`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import TunedModelOptions, top_option, truncate_option
from clip_fewshot.config import TextOptions, check_range, option
from clip_fewshot.errors import UsageError

DESCRIPTION = (
    "The captions nearest to a picture (--image), the pictures nearest to a text (--text), or how probable each of "
    "your own prompts is for a picture (--image with --prompt)."
)
EXAMPLES = (
    'photos/ --text "two dogs in the snow"',
    '--model ViT-B/32 --image a.jpg --prompt "a red, round fruit" --prompt "a dog"',
)


@dataclass(frozen=True, kw_only=True)
class Options(TunedModelOptions, TextOptions):
    image: Path | None = option(None, "a picture: find texts for it")
    text: str | None = option(None, "a text to find pictures for", metavar="TEXT")
    prompt: tuple[str, ...] = option(
        (), "with --image: a text to choose from in place of the captions of DATA; repeat it for more", texts=True
    )
    top: int = top_option()
    truncate: bool = truncate_option()

    def __post_init__(self) -> None:
        check_range(self, "top")
        if (self.image is None) == (self.text is None):
            got = "neither" if self.image is None else "both"
            raise UsageError(expected="one of --image and --text", got=got, fix="give one of them", where="--image")
        if self.prompt and self.image is None:
            expected = "--prompt with --image"
            raise UsageError(expected=expected, got="--text", fix="leave one of them out", where="--prompt")


def main(options: Options) -> int:
    picture = None if options.image is None else opening.open_picture(options.image)
    found = {"schema": 1, "model": str(options.tuned or options.model_name), **answer(options, picture)}
    print(json.dumps(found, indent=1) if options.json else ranking(found))
    return 0


def answer(options: Options, picture: Any) -> dict[str, Any]:
    """What was asked, among how many candidates, and the best of them."""
    from clip_fewshot.data.captions import TEMPLATES
    from clip_fewshot.protocol.retrieval import distinct_pictures, rank_pictures, rank_texts, texts_of

    templates = opening.open_templates(options, TEMPLATES[:1])
    backbone = opening.open_model(options.model_name, options.tuned, options.device)
    if options.text is not None:
        pictures = distinct_pictures(opening.open_measured(options))
        top = rank_pictures(backbone, options.text, pictures, options.top, options.truncate)
        return {"text": options.text, "candidates": len(pictures), "top": top}
    data = None if options.prompt else opening.open_measured(options)
    texts = texts_of(data, templates) if data else list(dict.fromkeys(options.prompt))
    top = rank_texts(backbone, picture, texts, options.top, options.truncate)
    return {"image": str(options.image), "candidates": len(texts), "top": top}


def ranking(found: dict[str, Any]) -> str:
    """A line per answer, best first."""
    from clip_fewshot.report import tables

    asked, what = ("image", "text") if "image" in found else ("text", "image")
    keys = [key for key in ("cosine", "probability", "match") if key in found["top"][0]]
    rows = [[row[what], *(tables.format_known(row[key]) for key in keys)] for row in found["top"]]
    return f"{found[asked]}: best of {found['candidates']:,}\n\n" + tables.format_plain([[what, *keys], *rows])
