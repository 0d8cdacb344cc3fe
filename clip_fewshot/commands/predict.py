"""What a saved model says of new pictures: `clip-fewshot predict runs/digits-mini/model photos/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.answering import AnsweringOptions, answer
from clip_fewshot.commands.cli.shared_options import SavedModelOptions, parse_svg
from clip_fewshot.config import option

DESCRIPTION = (
    'A class or "unknown" for each picture, with the share of known pictures that look as strange (p), the classes '
    "that cannot be ruled out at the alpha of the model, and the most probable ones. Pictures of another camera, which "
    "are no new classes, are told from those that are. Pictures that cannot be read are listed on standard error; the "
    "exit code is then 3."
)
EXAMPLES = (
    "runs/digits-mini/model new_pictures/ --together --out answers.csv",
    "runs/digits-mini/model new_pictures/ --sort-into sorted/ --grid answers.svg --overwrite",
)


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SavedModelOptions):
    """MODEL, which stands before PICTURES."""

    saved: Path = field(metadata={"positional": True, "metavar": "MODEL", "help": "folder of a saved model"})


@dataclass(frozen=True, kw_only=True)
class Options(AnsweringOptions, ModelOptions):
    grid: Path | None = option(
        None, "write the pictures with their answers to this .svg file", parse=parse_svg, metavar="PATH", group="output"
    )


def main(options: Options) -> int:
    grid = options.grid and opening.choose_file(options, options.grid)
    where = options.model, options.device, options.trust
    return answer(options, lambda: opening.open_saved(options.saved, *where), grid)
