"""A published recipe as written, beside ours: `python -m experiments.replicate s0`."""

from __future__ import annotations

import json
import sys
from importlib import import_module

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.run import run
from experiments.recipes.options import Options

PROG = "python -m experiments.replicate"
DESCRIPTION = "Run a published recipe as it was written and as this package does it, on the same pictures."
EXAMPLES = ("s0 --models RN50,RN101,ViT-B/16,ViT-B/32 --name-sets digits,words", "s1 --data photos/ --templates openai")


def main(options: Options) -> int:
    """Run the recipe and say whether its claims hold."""
    recipe = import_module(f"experiments.recipes.{options.recipe}")
    found = {"schema": 1, "recipe": options.recipe, "model": options.model_name} | recipe.run(options)
    print(json.dumps(found, indent=1) if options.json else recipe.table(found))
    return opening.exit_code_of(len(found.get("models", (found["model"],))), len(found.get("missing", ())))


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION, examples=EXAMPLES))
