"""Every method on the same support sets: `clip-fewshot compare digits digits-wild photos/`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli import shared_options as shared
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.commands.cli.run import command_line
from clip_fewshot.commands.shots import CURVE_SHOTS
from clip_fewshot.config import MODEL_HELP, OutputOptions, SourceOptions, check_range, model_for, option, split_names
from clip_fewshot.runtime.outputs import COMPARISON_FOLDER

DESCRIPTION = """Fit every method on the same support sets, ask each about the same sealed pictures: accuracy and its
paired difference to a reference, with intervals, log loss, seconds, numbers kept. Exit code 3: some lack a result."""
EXAMPLES = (
    "digits digits-wild photos/ --seeds 10 --published",
    "--features caltech101.parquet --approaches text-prior,python:my_probe:NEAREST_MEAN",
)
METHODS_HELP = "methods, auto for a choice, python:MODULE:NAME for your own (default: all that train no tower)"
OF_READING = ("root", "test", "columns", "format", "class_names", "classes_at", "max_skipped")
OF_SETS = ("sets", "model", *OF_READING, "template", "templates")


@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions, OutputOptions, shared.DeviceOptions):
    sets: tuple[str, ...] = shared.sets_argument()
    features: tuple[Path, ...] = option((), "tables by embed --labels, in place of pictures", group="data")
    model: str | None = option(None, MODEL_HELP, group="model")
    approaches: tuple[Any, ...] = option((), METHODS_HELP, parse=split_names)
    reference: str | None = option(None, "method that the others are compared with (default: text-prior)")
    published: bool = option(False, "print published numbers of that model beside, with their sources", group="output")
    epochs: int = option(20, "passes over the support set in each training")
    shot_counts: tuple[int, ...] = shared.shot_counts_option(CURVE_SHOTS)
    seeds: int = shared.seeds_option()
    seed: int = shared.seed_option()
    out: str | None = option(None, "output folder (default: runs/compare)", group="output")

    def __post_init__(self) -> None:
        check_range(self, "shot_counts", "seeds", "epochs")
        shared.refuse_idle(self, OF_SETS if self.features else (), "without --features")


def main(options: Options) -> int:
    from clip_fewshot.few_shot.trainer import TrainSettings
    from clip_fewshot.protocol.compare_sets import MethodPlan, compare_sets
    from clip_fewshot.protocol.method_tables import count_results

    out = opening.choose_folder(options, "runs/compare", COMPARISON_FOLDER)
    asked, templates = (options.approaches, options.reference), opening.open_templates(options, ())
    draws, counts = (options.seeds, options.seed), options.shot_counts or CURVE_SHOTS
    plan = MethodPlan(*asked, counts, *draws, TrainSettings(options.epochs, templates=templates), options.published)
    show = partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)
    with show_progress() as bars:
        record = compare_sets(open_sets(options, templates), plan, out, command_line(), show, opening.warn, bars)
    if options.json:
        print(json.dumps(record, indent=1))
    print(f"plot: {out / 'compare.svg'}   figures: {out / 'compare.json'}, .csv, .tex", file=sys.stderr)
    return opening.exit_code_of(*count_results(record))


def open_sets(options: Options, templates: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Name and content of each, opened when its turn comes."""
    from clip_fewshot.protocol.method_scene import ComparedSet, name_sets

    tables = [str(table) for table in options.features]
    for name, place in zip(name_sets(tables or options.sets), tables or options.sets, strict=True):
        if tables:
            yield name, ComparedSet.from_table(place)
        else:
            model, pictures = model_for(place, options.model), opening.open_data(place, **options.reading())
            backbone = opening.open_model(model, None, options.device)
            yield name, ComparedSet.from_pictures(pictures, backbone, model, templates)
