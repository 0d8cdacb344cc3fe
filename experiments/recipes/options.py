"""What a recipe is given."""

from __future__ import annotations

from dataclasses import dataclass

from clip_fewshot.commands.cli.shared_options import PICTURES, PicturesOptions, seeds_option
from clip_fewshot.config import check_range, option

# Modules with run(options) -> results as JSON, and table(results) -> text.
RECIPES = ("s0", "s1", "s1_rates", "s2", "s3", "s4")


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions):
    """The command line. DATA is given as --data: the recipe has the one place."""

    recipe: str = option("s0", "which", positional=True, choices=RECIPES)
    data: str = option("digits", PICTURES)
    seeds: int = seeds_option()

    def __post_init__(self) -> None:
        check_range(self, "seeds")
