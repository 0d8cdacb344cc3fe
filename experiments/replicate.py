"""A published recipe as written, beside ours: `python -m experiments.replicate s0`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib import import_module

from clip_fewshot.commands.cli.run import run
from clip_fewshot.commands.cli.shared_options import PICTURES, PicturesOptions, seeds_option
from clip_fewshot.config import check_least, option

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


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions):
    """The command line. DATA is given as --data: the recipe has the one place."""

    recipe: str = option("s0", "which", positional=True, choices=tuple(RECIPES))
    data: str = option("digits", PICTURES)
    seeds: int = seeds_option()

    def __post_init__(self) -> None:
        check_least(self, "seeds")


def main(options: Options) -> int:
    recipe = import_module(RECIPES[options.recipe])
    found = {"schema": 1, "recipe": options.recipe, "model": options.model_name} | recipe.run(options)
    print(json.dumps(found, indent=1) if options.json else recipe.table(found))
    return 0


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
