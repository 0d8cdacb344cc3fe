"""A published recipe as written, beside ours: `python -m experiments.replicate s0`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib import import_module

import clip_fewshot as cf
from clip_fewshot.config import MODELS, DataOptions
from experiments.options import run

PROG = "python -m experiments.replicate"
DESCRIPTION = "Run a published recipe as it was written and as this package does it, on the same pictures."
# name -> module with run(options) -> results as JSON, and table(results) -> text
RECIPES = {
    "s0": "experiments.recipes.s0",
    "s1": "experiments.recipes.s1",
    "s2": "experiments.recipes.s2",
    "s3": "experiments.recipes.s3",
    "s4": "experiments.recipes.s4",
}


@dataclass(frozen=True)
class Options:
    """The command line."""

    recipe: str = cf.option("s0", "which", positional=True, choices=tuple(RECIPES))
    data: str = cf.option("digits", "labelled pictures; or digits, digits-wild")
    model: str | None = cf.option(None, f"{MODELS} (default: ViT-B/32; mini for digits)")
    seeds: int = cf.option(5, "draws of the training pictures")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    json: bool = cf.option(False, "print JSON")

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise cf.UsageError(expected="1 or more", got=str(self.seeds), fix="change it", where="--seeds")

    @property
    def model_name(self) -> str:
        return DataOptions(data=self.data, model=self.model).model_name


def main(options: Options) -> int:
    recipe = import_module(RECIPES[options.recipe])
    found = {"schema": 1, "recipe": options.recipe, "model": options.model_name} | recipe.run(options)
    print(json.dumps(found, indent=1) if options.json else recipe.table(found))
    return 0


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
