"""Where pictures and texts lie in the common space, before and after training.

`python -m experiments.modality_gap pairs/ --model ViT-B/32 --tuned runs/finetune/model --out gap/`
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import clip_fewshot as cf
from clip_fewshot.config import DataOptions
from experiments import opening, tables
from experiments.options import run

PROG = "python -m experiments.modality_gap"
DESCRIPTION = (
    "Distance between the mean picture and the mean text (the modality gap), and both on two principal components, "
    "for a model and, beside it, the same model after training."
)


@dataclass(frozen=True)
class Options:
    data: str = cf.option("digits", "captioned or labelled pictures; or digits, digits-wild", positional=True)
    model: str | None = cf.option(None, "the model before training (default: ViT-B/32; mini for digits)")
    tuned: str | None = cf.option(None, "the model after training: DIR/model of experiments.finetune, or weights")
    out: Path = cf.option(Path("runs/modality_gap"), "folder for gap.json and a plot per model")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    json: bool = cf.option(False, "print JSON")


def main(options: Options) -> int:
    data = opening.dataset(options.data)
    name = DataOptions(data=options.data, model=options.model).model_name
    found: dict[str, Any] = {"schema": 1, "data": data.name, "models": {}}
    for when, tuned in {"before": None, **({} if options.tuned is None else {"after": options.tuned})}.items():
        view = embeddings(opening.model(name, tuned, options.device), data, when)
        plot = options.out / f"{when}.svg"
        cf.write_text(plot, cf.embedding_plot(view).svg)
        found["models"][when] = {"name": tuned or name, "plot": str(plot), **figures(view)}
    cf.write_json(options.out / "gap.json", found)
    print(json.dumps(found, indent=1) if options.json else table(found))
    return 0


def embeddings(backbone: cf.Backbone, data: cf.ImageDataset, title: str) -> cf.EmbeddingView:
    """Pictures, each once, and their captions; of labelled pictures, a sentence per class."""
    once = data.subset(np.sort(np.unique(data.digests, return_index=True)[1]))
    images = cf.encode_images(backbone, once).features
    if data.captions is None:
        names = data.label_space.names
        texts = cf.encode_texts(backbone, [cf.TEMPLATES[0].format(name) for name in names])
        return cf.EmbeddingView(title, images, once.required_labels(), texts, names)
    names = tuple(dict.fromkeys(data.captions))
    unlabelled = np.full(len(once), -1, dtype=np.int64)
    return cf.EmbeddingView(title, images, unlabelled, cf.encode_texts(backbone, names), names)


def figures(view: cf.EmbeddingView) -> dict[str, Any]:
    """The gap, beside how far rows of one modality lie from their own mean."""
    spread = {what: cf.spread(rows) for what, rows in (("images", view.images), ("texts", view.texts))}
    gap = cf.modality_gap(view.images, view.texts)
    return {"gap": gap, "spread": spread, "n_images": len(view.images), "n_texts": len(view.texts)}


def table(found: dict[str, Any]) -> str:
    """A line per model."""
    rows = [
        [
            f"{when} ({model['name']})",
            tables.fraction(model["gap"]),
            *(tables.fraction(model["spread"][what]) for what in ("images", "texts")),
            model["plot"],
        ]
        for when, model in found["models"].items()
    ]
    head = ["model", "gap", "spread of images", "spread of texts", "plot"]
    return tables.plain([head, *rows])


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
