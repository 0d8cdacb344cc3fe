"""Accuracy by shots per class: `clip-fewshot shots` makes the table and the plot of the README."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli import shared_options as shared
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.commands.cli.run import command_line
from clip_fewshot.config import MODEL_HELP, SOURCED, FewShotConfig, OutputOptions, SourceOptions, check_range, option
from clip_fewshot.runtime.progress import Shown

DESCRIPTION = (
    "Run the main job at several numbers of shots and collect every method's accuracy with its interval: shots.json, "
    "shots.svg and a Markdown table on standard output. Each run has its own folder and is never done twice."
)
EXAMPLES = ("digits --shot-counts 1,4,16", "photos/ flowers/ --model ViT-B/32 --trials 50 --out runs/curves")
CURVE_SHOTS, CURVE_TRIALS, CURVES_OUT = (1, 2, 4, 8, 16), 20, "runs/shots"


@dataclass(frozen=True, kw_only=True)
class Options(SourceOptions, OutputOptions, shared.DeviceOptions):
    sets: tuple[str, ...] = shared.sets_argument()
    model: str | None = option(None, MODEL_HELP, group="model")
    approaches: tuple[Any, ...] = shared.approaches_option()
    trials: int | None = option(None, f"total trials of each study (default: {CURVE_TRIALS})")
    epochs: int = option(20, "passes over the support set in each training")
    shot_counts: tuple[int, ...] = shared.shot_counts_option(CURVE_SHOTS)
    seeds: int = shared.seeds_option()
    seed: int = shared.seed_option()
    out: str | None = option(None, f"output folder (default: {CURVES_OUT})", group="output")

    def config(self, data: str, shots: int) -> FewShotConfig:
        """The main job at one point of one curve; every class is known, as in published curves."""
        names = ("model", "seeds", "approaches", "epochs", "seed", "device", "overwrite", *SOURCED)
        same = {name: getattr(self, name) for name in names}
        out = str(Path(self.out or CURVES_OUT) / f"{Path(data).name}-{shots}")
        return FewShotConfig.of(data=data, shots=shots, unseen="0", trials=self.trials or CURVE_TRIALS, out=out, **same)

    def __post_init__(self) -> None:
        check_range(self, "shot_counts")
        self.config(self.sets[0], 1)  # refuses what is out of range before anything runs


def main(options: Options) -> int:
    from clip_fewshot.few_shot.approach import find_approach
    from clip_fewshot.protocol.run_folder import write_out_templates
    from clip_fewshot.protocol.shot_curves import collect_curves, describe_curves, save_curves
    from clip_fewshot.runtime.outputs import SHOTS_FOLDER, mark_folder

    folder = opening.choose_folder(options, CURVES_OUT, SHOTS_FOLDER)
    _ = [find_approach(approach) for approach in options.approaches]  # refuses an unknown name before anything runs
    counts, found = sorted(set(options.shot_counts or CURVE_SHOTS)), {}
    mark_folder(folder, SHOTS_FOLDER)
    with show_progress() as progress:
        for data in options.sets:
            configs = [write_out_templates(options.config(data, n)) for n in counts]
            runs = [run(config, progress) for config in configs]
            found[Path(data).name] = collect_curves(runs)
            opening.warn(dict.fromkeys(sentence for results in runs for sentence in results["warnings"]))
    record = {"schema": 1, "command": command_line(), "seeds": options.seeds, "trials": options.trials or CURVE_TRIALS}
    save_curves(record | {"data": found}, folder)
    print(json.dumps(record | {"data": found}, indent=1) if options.json else describe_curves(found))
    print(f"plot: {folder / 'shots.svg'}   figures: {folder / 'shots.json'}", file=sys.stderr)
    return 0


def run(config: FewShotConfig, progress: Shown) -> Mapping[str, Any]:
    """results.json of one run: as it is where the run is complete, else made, or gone on with."""
    from clip_fewshot.pipeline import run_few_shot
    from clip_fewshot.protocol.shot_curves import read_finished

    place = f"{Path(config.data.data).name} at {config.data.shots}: "
    return read_finished(config) or run_few_shot(config, lambda at, *done: progress(place + at, *done), command_line())
