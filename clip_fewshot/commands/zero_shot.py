"""Class names in place of training pictures: `clip-fewshot zero-shot photos/ --model ViT-B/32`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import TunedModelOptions
from clip_fewshot.config import TextOptions, option
from clip_fewshot.data.names import number

DESCRIPTION = (
    "Zero-shot accuracy on a set of pictures, or with --image the most probable of its classes for one picture."
)
EXAMPLES = (
    'photos/ --model ViT-B/32 --template "a photo of the number {}" --class-names names.txt',
    "photos/ --image holiday.jpg --templates openai --model clip-vit-large-patch14/",
)
TOP = 5


@dataclass(frozen=True, kw_only=True)
class Options(TunedModelOptions, TextOptions):
    image: Path | None = option(None, f"a picture: show the top {TOP} of the classes for it instead")


def main(options: Options) -> int:
    from clip_fewshot.data.captions import TEMPLATES
    from clip_fewshot.protocol.zero_shot_accuracy import measure_zero_shot, rank_classes

    templates = opening.open_templates(options, TEMPLATES)
    picture = None if options.image is None else opening.open_picture(options.image)
    data = opening.open_data(options.data, **options.reading())
    data.required_labels()
    backbone = opening.open_model(options.model_name, options.tuned, options.device)
    if picture is None:
        found, text = measure_zero_shot(backbone, data, templates), summary
    else:
        top = rank_classes(backbone, picture, data.label_space.names, templates, TOP)
        found, text = {"image": str(options.image), **top}, ranking
    name = str(options.tuned or options.model_name)
    if alike := found["told_alike"]:
        some = f"{len(alike)} class names are the same text to {name}: {', '.join(alike[:TOP])}"
        opening.warn([f"{some}; where names tell nothing, the first class wins: try another --model or --class-names"])
    found |= {"schema": 1, "model": name, "data": data.name, "templates": list(templates)}
    print(json.dumps(found, indent=1) if options.json else text(found))
    return 0


def summary(found: dict[str, Any]) -> str:
    """Accuracy, whether the probabilities are right, then a line per class."""
    from clip_fewshot.report import tables
    from clip_fewshot.report.headline import FIGURES

    head = ["class", "precision", "recall", "F1", "n"]
    rows = [
        [name, *(tables.format_fraction(row[key]) for key in ("precision", "recall", "f1")), str(row["support"])]
        for name, row in found["classes"].items()
    ]
    result, prompts = found["accuracy"], len(found["templates"])
    how = f"{found['model']}, {number(prompts, 'prompt')} per class"
    accuracy, macro_f1 = tables.estimate(result["mean"], result["ci95"]), tables.format_fraction(found["macro_f1"])
    first = f"{found['data']}: {number(result['n_test'], 'picture')} of {number(len(rows), 'class', 'classes')}, {how}"
    sure = ", ".join(f"{name} {tables.estimate_of(found[key])}" for key, name in FIGURES.items())
    return "\n".join([first, f"accuracy {accuracy}, macro-F1 {macro_f1}", sure, "", tables.format_plain([head, *rows])])


def ranking(found: dict[str, Any]) -> str:
    """A line per class, most probable first."""
    from clip_fewshot.report import tables

    keys = [key for key in ("probability", "match") if key in found["top"][0]]
    rows = [[row["class"], *(tables.format_fraction(row[key]) for key in keys)] for row in found["top"]]
    return tables.format_plain([[found["image"], *keys], *rows])
