"""Texts for a picture, pictures for a text: `python -m experiments.retrieve photos/ --text "two dogs in the snow"`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import clip_fewshot as cf
from clip_fewshot.config import MODELS, DataOptions
from experiments import opening, tables
from experiments.options import run

PROG = "python -m experiments.retrieve"
DESCRIPTION = (
    "The captions nearest to a picture (--image), the pictures nearest to a text (--text), or how probable each of "
    "your own prompts is for a picture (--image with --prompt)."
)


@dataclass(frozen=True)
class Options:
    data: str = cf.option("digits", "captioned or labelled pictures; or digits, digits-wild", positional=True)
    model: str | None = cf.option(None, f"{MODELS} (default: ViT-B/32; mini for digits)")
    tuned: Path | None = cf.option(None, "what experiments.finetune made of that model: its DIR/model")
    image: Path | None = cf.option(None, "a picture to find texts for")
    text: str | None = cf.option(None, "a text to find pictures for")
    prompt: tuple[str, ...] = cf.option((), "with --image: texts to choose from in place of the captions of DATA")
    top: int = cf.option(5, "answers shown")
    truncate: bool = cf.option(False, "cut texts that are too long for the model instead of refusing them")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    json: bool = cf.option(False, "print JSON")

    def __post_init__(self) -> None:
        if (self.image is None) == (self.text is None):
            raise cf.UsageError(
                expected="one of --image and --text", got="both or neither", fix="give one of them", where="--image"
            )
        if self.prompt and self.image is None:
            raise cf.UsageError(
                expected="--prompt with --image", got="--text", fix="leave one of them out", where="--prompt"
            )
        if self.top < 1:
            raise cf.UsageError(expected="at least 1", got=str(self.top), fix="change --top", where="--top")


def main(options: Options) -> int:
    name = DataOptions(data=options.data, model=options.model).model_name
    backbone = opening.model(name, options.tuned, options.device)
    found = texts_for(backbone, options) if options.text is None else pictures_for(backbone, options)
    found = {"schema": 1, "model": str(options.tuned or name), **found}
    print(json.dumps(found, indent=1) if options.json else ranking(found))
    return 0


def texts_for(backbone: cf.Backbone, options: Options) -> dict[str, Any]:
    """The nearest texts of the picture; among given prompts, with their probabilities."""
    texts = list(dict.fromkeys(options.prompt or captions(opening.dataset(options.data))))
    picture = unit(cf.encode_images(backbone, cf.read_images([options.image])).features)  # type: ignore[list-item]
    cosines = unit(cf.encode_texts(backbone, texts, truncate=options.truncate)) @ picture[0]
    probabilities = softmax(float(backbone.logit_scale.detach().exp()) * cosines)
    best = np.argsort(-cosines, kind="stable")[: options.top].tolist()
    top = [{"text": texts[i], "cosine": float(cosines[i]), "probability": float(probabilities[i])} for i in best]
    return {"image": str(options.image), "candidates": len(texts), "top": top}


def pictures_for(backbone: cf.Backbone, options: Options) -> dict[str, Any]:
    """The nearest pictures of the text, each picture once however many captions it has."""
    data = opening.dataset(options.data)
    data = data.subset(np.unique(data.digests, return_index=True)[1])
    text = unit(cf.encode_texts(backbone, [options.text or ""], truncate=options.truncate))
    cosines = unit(cf.encode_images(backbone, data).features) @ text[0]
    best = np.argsort(-cosines, kind="stable")[: options.top].tolist()
    top = [{"image": data.names[i], "cosine": float(cosines[i])} for i in best]
    return {"text": options.text, "candidates": len(data), "top": top}


def captions(data: cf.ImageDataset) -> list[str]:
    """The captions of a set; of one with classes, a sentence per class."""
    if data.captions is not None:
        return list(data.captions)
    return [cf.TEMPLATES[0].format(name) for name in data.label_space.names]


def unit(rows: cf.FloatArray) -> cf.FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12))


def softmax(logits: cf.FloatArray) -> cf.FloatArray:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def ranking(found: dict[str, Any]) -> str:
    """A line per answer, best first."""
    what = "text" if "image" in found else "image"
    asked = found["image"] if what == "text" else found["text"]
    keys = [key for key in ("cosine", "probability") if key in found["top"][0]]
    rows = [[row[what], *(tables.fraction(row[key]) for key in keys)] for row in found["top"]]
    return f"{asked}: best of {found['candidates']:,}\n\n" + tables.plain([[what, *keys], *rows])


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
