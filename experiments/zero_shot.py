"""Class names in place of training pictures: `python -m experiments.zero_shot photos/ --model ViT-B/32`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import clip_fewshot as cf
from clip_fewshot.config import MODELS, DataOptions
from experiments import opening, tables
from experiments.options import run

if TYPE_CHECKING:
    from torch import Tensor

DESCRIPTION = (
    "Zero-shot accuracy on a set of pictures, or with --image the most probable of its classes for one picture."
)
TOP = 5


@dataclass(frozen=True)
class Options:
    data: str = cf.option("digits", "folder, list file or CSV of pictures; or digits, digits-wild", positional=True)
    model: str | None = cf.option(None, f"{MODELS} (default: ViT-B/32; mini for digits)")
    tuned: Path | None = cf.option(None, "what experiments.finetune made of that model: its DIR/model")
    templates: Literal["one", "ensemble"] = cf.option("ensemble", "one prompt per class, or the mean of several")
    image: Path | None = cf.option(None, f"show the top {TOP} of the classes for this picture instead")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    json: bool = cf.option(False, "print JSON")


def main(options: Options) -> int:
    data = opening.dataset(options.data)
    data.required_labels()
    name = DataOptions(data=options.data, model=options.model).model_name
    backbone = opening.model(name, options.tuned, options.device)
    templates = cf.TEMPLATES[:1] if options.templates == "one" else cf.TEMPLATES
    if options.image is None:
        found, text = accuracy(backbone, data, templates), summary
    else:
        found, text = answer(backbone, data, templates, options.image), ranking
    found |= {"schema": 1, "model": str(options.tuned or name), "data": data.name, "templates": list(templates)}
    print(json.dumps(found, indent=1) if options.json else text(found))
    return 0


def accuracy(backbone: cf.Backbone, data: cf.ImageDataset, templates: tuple[str, ...]) -> dict[str, Any]:
    """Over all pictures, or the source's own test part where it has one: nothing here is trained or chosen."""
    test, names = test_part(data), data.label_space.names
    labels, predicted = test.required_labels(), probabilities(backbone, test, names, templates).argmax(dim=1).numpy()
    rows = cf.per_class_table(labels, predicted, len(names))
    return {
        "accuracy": cf.interval([predicted == labels]).to_json(),
        "macro_f1": cf.macro_f1(labels, predicted),
        "classes": {name: row._asdict() for name, row in zip(names, rows, strict=True)},
    }


def test_part(data: cf.ImageDataset) -> cf.ImageDataset:
    """The pictures that the source itself calls test, or all of them."""
    import numpy as np

    rows = np.flatnonzero([part == "test" for part in data.partition])
    return data.subset(rows) if len(rows) else data


def answer(backbone: cf.Backbone, data: cf.ImageDataset, templates: tuple[str, ...], image: Path) -> dict[str, Any]:
    """The most probable classes of ``data`` for one picture."""
    names = data.label_space.names
    values, places = probabilities(backbone, cf.read_images([image]), names, templates)[0].topk(min(TOP, len(names)))
    ranked = zip(places.tolist(), values.tolist(), strict=True)
    return {"image": str(image), "top": [{"class": names[i], "probability": value} for i, value in ranked]}


def probabilities(
    backbone: cf.Backbone, pictures: cf.ImageDataset, names: tuple[str, ...], templates: tuple[str, ...]
) -> Tensor:
    """(n, c) of the pictures for the class names."""
    import torch

    weights = cf.zero_shot_weights(backbone, names, templates)
    head = cf.ZeroShotHead(weights.cpu(), float(backbone.logit_scale.detach().exp()))
    logits: Tensor = head(torch.from_numpy(cf.encode_images(backbone, pictures).features))
    return logits.softmax(dim=1)


def summary(found: dict[str, Any]) -> str:
    """Accuracy, then a line per class."""
    head = ["class", "precision", "recall", "F1", "n"]
    rows = [
        [name, *(tables.fraction(row[key]) for key in ("precision", "recall", "f1")), str(row["support"])]
        for name, row in found["classes"].items()
    ]
    result, prompts = found["accuracy"], len(found["templates"])
    how = f"{found['model']}, {prompts} prompt{'s' if prompts > 1 else ''} per class"
    macro_f1 = tables.fraction(found["macro_f1"])
    return "\n".join(
        [
            f"{found['data']}: {result['n_test']:,} pictures of {len(rows)} classes, {how}",
            f"accuracy {tables.estimate(result['mean'], result['ci95'])}, macro-F1 {macro_f1}",
            "",
            tables.plain([head, *rows]),
        ]
    )


def ranking(found: dict[str, Any]) -> str:
    """A line per class, most probable first."""
    rows = [[row["class"], tables.fraction(row["probability"])] for row in found["top"]]
    return tables.plain([[found["image"], "probability"], *rows])


if __name__ == "__main__":
    sys.exit(run(main, Options, "python -m experiments.zero_shot", DESCRIPTION))
