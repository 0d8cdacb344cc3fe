"""What a saved model says of new pictures: `python -m experiments.predict runs/digits-mini/model photos/`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import clip_fewshot as cf
from experiments import opening, tables
from experiments.options import run

SOME_SKIPPED = 3
DESCRIPTION = (
    'A class or "unknown" for each picture, with the share of known pictures that look as strange (p) and the most '
    "probable classes. Pictures that cannot be read are listed on standard error; the exit code is then 3."
)


@dataclass(frozen=True)
class Options:
    saved: Path = field(metadata={"positional": True, "metavar": "MODEL", "help": "folder of a saved model"})
    images: tuple[Path, ...] = field(
        metadata={"positional": True, "metavar": "IMAGES", "help": "pictures, or folders that hold some"}
    )
    top: int = cf.option(5, "most probable classes per picture")
    grid: Path | None = cf.option(None, "write the pictures with their answers to this .svg file")
    model: str | None = cf.option(None, "the backbone it was trained on, if its saved name cannot be loaded")
    device: str = cf.option("auto", "where to compute, together with --model", choices=("auto", "cpu", "cuda", "mps"))
    json: bool = cf.option(False, "print JSON")

    def __post_init__(self) -> None:
        if self.top < 1:
            raise cf.UsageError(expected="1 or more", got=str(self.top), fix="change --top", where="--top")
        if self.grid is not None and self.grid.suffix != ".svg":
            raise cf.UsageError(
                expected="a name that ends in .svg", got=self.grid.name, fix="change --grid", where="--grid"
            )


def main(options: Options) -> int:
    pictures = cf.read_images(options.images)
    for path, reason, detail in pictures.skipped:
        print(f"skipped {cf.shown(path)}: [{reason}] {cf.shown(detail)}", file=sys.stderr)
    world = opening.saved_model(options.saved, options.model, options.device)
    refusal = world.rejector_ and world.rejector_.refusal(world.alpha)
    opening.warn([f"no picture will be called unknown: {refusal}"] if refusal else [])
    answers = world.predict(pictures, options.top)
    print(json.dumps(record(world, pictures, answers), indent=1) if options.json else table(world, pictures, answers))
    if options.grid is not None:
        cf.write_text(options.grid, grid(pictures, answers))
    return SOME_SKIPPED if pictures.skipped else 0


def table(world: cf.OpenWorldClassifier, pictures: cf.ImageDataset, answers: Sequence[cf.Answer]) -> str:
    """One line per picture."""
    places = range(len(answers[0].top))
    head = ["image", "answer", "p", *(f"top {place + 1}" for place in places)]
    rows = [
        [
            name,
            answer.label or "unknown",
            "-" if world.rejector_ is None else tables.fraction(answer.p_value),
            *(f"{label} {tables.fraction(probability)}" for label, probability in answer.top),
        ]
        for name, answer in zip(pictures.names, answers, strict=True)
    ]
    return tables.plain([head, *rows])


def record(world: cf.OpenWorldClassifier, pictures: cf.ImageDataset, answers: Sequence[cf.Answer]) -> dict[str, Any]:
    """The same for machines; the label of an unknown picture is null, as is p where the model has no detector."""
    return {
        "schema": 1,
        "alpha": None if world.rejector_ is None else world.alpha,
        "answers": [
            {
                "image": name,
                "label": answer.label,
                "p_value": None if world.rejector_ is None else answer.p_value,
                "top": [{"class": label, "probability": probability} for label, probability in answer.top],
            }
            for name, answer in zip(pictures.names, answers, strict=True)
        ],
        "skipped": [skipped._asdict() for skipped in pictures.skipped],
    }


def grid(pictures: cf.ImageDataset, answers: Sequence[cf.Answer]) -> str:
    """The pictures with their answers, as SVG."""
    return cf.picture_grid([_cell(pictures, i, answer) for i, answer in enumerate(answers)])


def _cell(pictures: cf.ImageDataset, i: int, answer: cf.Answer) -> cf.GridCell:
    label, probability = answer.top[0]
    likely = f"{label} {probability:.2f}"
    lines = (likely,) if answer.label else ("unknown", f"({likely})")
    return cf.GridCell(pictures.open(i), (*lines, Path(pictures.names[i]).name), answer.label is None)


if __name__ == "__main__":
    sys.exit(run(main, Options, "python -m experiments.predict", DESCRIPTION))
