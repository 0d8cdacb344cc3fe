"""What the two commands do that answer for pictures: print the answers, write them, sort the pictures by them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.imports import import_quickly
from clip_fewshot.commands.cli.run import describe_program
from clip_fewshot.commands.cli.shared_options import (
    SavedModelOptions,
    pictures_argument,
    refuse_idle,
    together_option,
    top_option,
)
from clip_fewshot.config import OutputOptions, check_range, option
from clip_fewshot.data.names import escape
from clip_fewshot.errors import UsageError

if TYPE_CHECKING:
    from clip_fewshot.data.dataset import ImageDataset
    from clip_fewshot.open_world.answers import Answer
    from clip_fewshot.open_world.classifier import OpenWorldClassifier

ANSWER_FORMATS = (".csv", ".jsonl", ".parquet")


def parse_answer_file(text: str) -> str:
    """The path of a file of answers."""
    if Path(text).suffix not in ANSWER_FORMATS:
        raise ValueError(f"expected a name that ends in {', '.join(ANSWER_FORMATS)}, got {text!r}")
    return text


@dataclass(frozen=True, kw_only=True)
class AnsweringOptions(SavedModelOptions, OutputOptions):
    """Of commands that answer for pictures."""

    pictures: tuple[Path, ...] = pictures_argument()
    top: int = top_option()
    together: bool = together_option()
    out: str | None = option(
        None,
        "write the answers to this .csv, .jsonl or .parquet, a row a picture, as they come",
        parse=parse_answer_file,
        metavar="PATH",
        group="output",
    )
    sort_into: Path | None = option(
        None, "copy the pictures into this new folder, a folder in it per answer", group="output"
    )
    links: bool = option(False, "with --sort-into: links to the pictures in place of copies", group="output")

    def __post_init__(self) -> None:
        check_range(self, "top")
        refuse_idle(self, ("links",) if self.sort_into is None else (), "with --sort-into")
        if self.out is not None and self.sort_into == Path(self.out):
            fix = "choose another place for one of them"
            raise UsageError(expected="a file and a folder", got=f"{self.out} for both", fix=fix, where="`sort_into`")


def answer(
    options: AnsweringOptions, open_world: Callable[[], OpenWorldClassifier], drawing: Path | None = None
) -> int:
    """Answer for the pictures that were named; the exit code.

    Args:
        open_world: loads the model, after all that can be refused without it.
        drawing: SVG of the pictures with their answers.
    """
    with import_quickly():
        from clip_fewshot.protocol import answer_pictures as steps
        from clip_fewshot.protocol.sort_pictures import PictureSorter, list_files
        from clip_fewshot.report.answer_tables import answer_rows, answers_grid, answers_record, answers_table
        from clip_fewshot.report.shifts import describe_shift
        from clip_fewshot.runtime.outputs import check_new_folder, write_marked

    out = None if options.out is None else steps.check_answer_file(Path(options.out), options.overwrite, options)
    folder = None if options.sort_into is None else check_new_folder(options.sort_into, options)
    pictures = opening.open_pictures(options.pictures)
    sorter = None if folder is None else PictureSorter(folder, list_files(pictures), options.links)
    world = open_world()
    opening.warn_if_blind(world)
    with nullcontext(lambda rows: None) if out is None else steps.write_answers(out) as add:

        def keep(block: ImageDataset, said: Sequence[Answer]) -> None:
            add(answer_rows(world, block, said))
            if sorter is not None:
                sorter.add(said)

        answers, shift = steps.answer_pictures(world, pictures, options.top, options.together, keep)
    if drawing is not None:
        write_marked(drawing, answers_grid(pictures, answers))
    opening.warn(describe_shift(shift))
    record = answers_record(world, pictures, answers) | {"shift": shift.to_json()}
    where = "--out FILE.csv writes all" if out is None else f"all are in {escape(out)}"
    print(json.dumps(record, indent=1) if options.json else answers_table(world, pictures, answers, where))
    if folder is not None and not options.json:
        undo = f"{describe_program()} unsort {shlex.quote(escape(folder))}"
        print(
            f"sorted into {escape(folder)}; your pictures stay where they are; to take it back: {undo}", file=sys.stderr
        )
    return opening.exit_code(pictures)
