"""What a saved model says of new pictures: `clip-fewshot predict runs/digits-mini/model photos/`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import (
    SavedModelOptions,
    parse_svg,
    pictures_argument,
    together_option,
    top_option,
)
from clip_fewshot.config import OutputOptions, check_range, option

DESCRIPTION = (
    'A class or "unknown" for each picture, with the share of known pictures that look as strange (p), the classes '
    "that cannot be ruled out at the alpha of the model, and the most probable ones. Pictures of another camera, which "
    "are no new classes, are told from those that are. Pictures that cannot be read are listed on standard error; the "
    "exit code is then 3."
)
EXAMPLES = (
    "runs/digits-mini/model new_pictures/ --together",
    "runs/digits-mini/model a.jpg b.jpg --grid answers.svg --overwrite",
)


@dataclass(frozen=True, kw_only=True)
class Options(SavedModelOptions, OutputOptions):
    saved: Path = field(metadata={"positional": True, "metavar": "MODEL", "help": "folder of a saved model"})
    pictures: tuple[Path, ...] = pictures_argument()
    top: int = top_option()
    together: bool = together_option()
    grid: Path | None = option(
        None, "write the pictures with their answers to this .svg file", parse=parse_svg, metavar="PATH", group="output"
    )

    def __post_init__(self) -> None:
        check_range(self, "top")


def main(options: Options) -> int:
    from clip_fewshot.report.answer_tables import answers_grid, answers_record, answers_table
    from clip_fewshot.report.shifts import describe_shift
    from clip_fewshot.runtime.outputs import write_marked

    grid = options.grid and opening.choose_file(options, options.grid)
    pictures = opening.open_pictures(options.pictures)
    world = opening.open_saved(options.saved, options.model, options.device, options.trust)
    opening.warn_if_blind(world)
    answers = world.predict(pictures, options.top, options.together)
    if grid is not None:
        write_marked(grid, answers_grid(pictures, answers))
    shift = world.find_shift()
    opening.warn(describe_shift(shift))
    record = answers_record(world, pictures, answers) | {"shift": shift.to_json()}
    print(json.dumps(record, indent=1) if options.json else answers_table(world, pictures, answers))
    return opening.exit_code(pictures)
