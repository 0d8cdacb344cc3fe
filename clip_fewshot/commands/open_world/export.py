"""The groups as files for other tools: `clip-fewshot open-world export store/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.imports import import_quickly
from clip_fewshot.commands.open_world.shared import StoreOptions, next_step, open_store, print_answer
from clip_fewshot.config import OutputOptions, option

DESCRIPTION = (
    "Write the unknown pictures with a label each, group-0 and so on, for FiftyOne, Label Studio, CVAT or a "
    "spreadsheet. Change the labels there, then apply what the tool exports: a new label makes a class."
)
EXAMPLES = ("store/", "store/ --out tasks.json --to label-studio")
EXPORT_OUT = "groups.json"
LABEL_FORMS = ("coco", "csv", "folders", "label-studio")


@dataclass(frozen=True, kw_only=True)
class Options(StoreOptions, OutputOptions):
    out: str | None = option(None, f"a new .json or .csv, or a folder (default: {EXPORT_OUT})", group="output")
    to: str | None = option(
        None, "form (default: .json is coco, .csv is csv, other names are folders)", choices=LABEL_FORMS, group="output"
    )
    everything: bool = option(False, "the pictures of known classes too, under their class", group="output")


def main(options: Options) -> int:
    with import_quickly():
        from clip_fewshot.data.names import escape, number
        from clip_fewshot.protocol.export_groups import export_groups

    out = options.out or EXPORT_OUT
    with open_store(options.store, options) as store:
        done = export_groups(store, out, options.to, options.everything, options.overwrite)
    opening.warn(f"left out, its file is not where it was: {name}" for name in done.lost)
    record = {"pictures": done.pictures, "labels": done.labels, "root": str(done.root), "left_out": len(done.lost)}
    text = f"{escape(out)}: {number(done.pictures, 'picture')} under {number(done.labels, 'label')}"
    root = done.root.relative_to(Path.cwd()) if done.root.is_relative_to(Path.cwd()) else done.root
    print_answer(options, record, f"{text}; paths start from {escape(root)}")
    next_step(options, f"next: change labels in the tool, then apply {escape(options.store)} what it exports")
    return opening.SOME_SKIPPED if done.lost else opening.DONE
