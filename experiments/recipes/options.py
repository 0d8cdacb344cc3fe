"""What a recipe is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clip_fewshot.commands.cli.shared_options import PICTURES, PicturesOptions, refuse_idle, seeds_option
from clip_fewshot.config import TextOptions, check_range, option

# Modules with run(options) -> results as JSON, and table(results) -> text.
RECIPES = ("s0", "s1", "s1_rates", "s2", "s3", "s4")
NAME_SETS = ("digits", "words")
OF_S0, OF_S0_AND_S1 = ("models", "name_sets"), ("template", "templates", "class_names")


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions, TextOptions):
    """The command line. DATA is given as --data: the recipe has the one place."""

    recipe: str = option("s0", "which", positional=True, choices=RECIPES)
    data: str = option("digits", PICTURES)
    models: tuple[str, ...] = option(
        (), "of s0: models beside or in place of --model, in one table; all: OpenAI's nine", group="model"
    )
    name_sets: tuple[Literal["digits", "words"], ...] = option(
        (), "of s0: what the ten digits are called, 0 or zero (default: both)", group="texts"
    )
    seeds: int = seeds_option()

    def __post_init__(self) -> None:
        check_range(self, "seeds")
        if self.recipe != "s0":
            refuse_idle(self, OF_S0, "with s0")
        if self.recipe not in ("s0", "s1"):
            refuse_idle(self, OF_S0_AND_S1, "with s0 or s1")
