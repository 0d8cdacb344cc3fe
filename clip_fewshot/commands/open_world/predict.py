"""What the newest classifier makes of pictures: `clip-fewshot open-world predict store/ photos/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.shared_options import pictures_argument, together_option, top_option
from clip_fewshot.commands.open_world.shared import StoreOptions, open_store, print_answer
from clip_fewshot.config import check_range

DESCRIPTION = "What the newest classifier makes of pictures, and the classes it cannot rule out; nothing is stored."
EXAMPLES = ("store/ new_pictures/ --together", "store/ a.jpg b.jpg --top 3 --json")


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    pictures: tuple[Path, ...] = pictures_argument()
    top: int = top_option()
    together: bool = together_option()

    def __post_init__(self) -> None:
        check_range(self, "top")


def main(options: Options) -> int:
    from clip_fewshot.report.answer_tables import answers_record, answers_table
    from clip_fewshot.report.shifts import describe_shift

    pictures = opening.open_pictures(options.pictures)
    with open_store(options.store, options) as store:
        world = store.world
    opening.warn_if_blind(world)
    answers = world.predict(pictures, options.top, options.together)
    shift = world.find_shift()
    opening.warn(describe_shift(shift))
    record = answers_record(world, pictures, answers) | {"shift": shift.to_json()}
    print_answer(options, record, answers_table(world, pictures, answers))
    return opening.exit_code(pictures)
