"""What the choice of the study costs, held against an exhaustive grid of its space: `python -m experiments.regret`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.run import run
from clip_fewshot.commands.cli.shared_options import PicturesOptions, seed_option, seeds_option, shot_counts_option
from clip_fewshot.config import check_range, option
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.evaluation.intervals import paired_difference
from clip_fewshot.features.encode import image_prefix
from clip_fewshot.few_shot.approach import APPROACHES, Approach, Point
from clip_fewshot.few_shot.search.space import SearchSpace
from clip_fewshot.few_shot.search.study import StudyPlan, run_study
from clip_fewshot.few_shot.select import select
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.protocol.refits import Task, build_cross_validation, build_evaluate, prepare
from clip_fewshot.report import tables
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import BoolArray

PROG = "python -m experiments.regret"
DESCRIPTION = (
    "Accuracy of the best cell of a grid, less that of what the study chose. The best cell is picked by half of the "
    "sealed pictures and compared on the other half: it has seen them, the study has not."
)
SHOTS = (4, 16)
GRID: dict[str, tuple[float, ...]] = {
    "backbone_lr": (1e-5, 1e-4, 5e-4),
    "head_lr": (3e-4, 1e-3, 3e-3),
    "margin": (0.0, 0.3),
    "scale": (16.0, 32.0),
}


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions):
    """Of the comparison."""

    shot_counts: tuple[int, ...] = shot_counts_option(SHOTS)
    trials: int = option(50, "trials of each study", group="study")
    max_unfreeze: int = option(2, "largest N of 'the last N layers', of study and grid", group="study")
    seeds: int = seeds_option()
    seed: int = seed_option()

    def __post_init__(self) -> None:
        check_range(self, "shot_counts", "trials", "seeds")


class Regret(NamedTuple):
    """One support set: what was chosen, the best cell, and who was right on the other half of the pictures."""

    chosen: str
    best: str
    right: BoolArray
    best_right: BoolArray


def main(options: Options) -> int:
    """Measure and print."""
    data, backbone = opening.open_data(options.data, **options.reading()), load_backbone(options.model_name)
    rows = [measure(backbone, data, shots, options) for shots in options.shot_counts or SHOTS]
    found = {"schema": 1, "data": options.data, "model": options.model_name, "trials": options.trials}
    print(json.dumps(found | {"rows": rows}, indent=1) if options.json else describe(rows))
    return 0


def measure(backbone: Backbone, data: ImageDataset, shots: int, options: Options) -> dict[str, Any]:
    """The regret at one number of shots, over support sets."""
    split = split_open_world(data, shots=shots, seed=options.seed)
    test = split.test.open("regret")
    found = []
    for seed in range(options.seed, options.seed + options.seeds):
        task = Task(backbone, split.pool, shots, TrainSettings(), views=1, seed=seed)
        found.append(compare(task, test, options))
    regret = paired_difference([one.best_right for one in found], [one.right for one in found])
    accuracy = float(np.mean([one.right.mean() for one in found]))
    names = {"chosen": [one.chosen for one in found], "best": [one.best for one in found]}
    return {
        "shots": shots,
        "accuracy": accuracy,
        "best_accuracy": accuracy + regret.mean,
        "regret": regret.to_json(),
        **names,
    }


def compare(task: Task, test: ImageDataset, options: Options) -> Regret:
    """The study's choice and every cell, trained on one support set."""
    depth, labels = min(options.max_unfreeze, task.backbone.visual.n_blocks), test.required_labels()
    support, sealed = (
        prepare(task, task.support(0), range(depth + 1)),
        image_prefix(task.backbone, test, range(depth + 1)),
    )
    with TemporaryDirectory() as folder:
        folds = len(task.folds(support.data.labels))
        plan = StudyPlan(options.trials, folds, task.seed, Path(folder))
        trials = run_study(SearchSpace(task.approaches, depth), build_evaluate(task, support), plan)
    winners, name = select(trials, tuple(task.by_name.values()), depth)
    bench = build_cross_validation(task, support)

    def ask(point: Point) -> BoolArray:
        model = bench.fit(point)
        return np.asarray(model.logits(model.features(sealed)).argmax(axis=1) == labels)

    chosen = ask(winners[name])
    order = generator(task.seed, "regret").permutation(len(labels))
    seen, other = order[: len(order) // 2], order[len(order) // 2 :]
    cells = [(point, ask(point)) for point in grid(depth, task)]
    best, right = max(cells, key=lambda cell: float(cell[1][seen].mean()))
    return Regret(name, best.approach, chosen[other], right[other])


def grid(depth: int, task: Task) -> Iterator[Point]:
    """Every approach at every N and, of its options, the values of ``GRID``."""
    for approach in task.by_name.values():
        depths = range(approach.least_unfreeze, depth + 1) if approach.name in APPROACHES else (0,)
        for n in depths:
            names = searched(approach, n)
            for values in product(*(GRID[name] for name in names)):
                yield approach.at({"unfreeze": n, **dict(zip(names, values, strict=True))})


def searched(approach: Approach, n: int) -> Sequence[str]:
    """The options of an approach that the grid varies: those with an effect where the last n layers train."""
    return [name for name in GRID if name in approach.space and (n > 0 or name != "backbone_lr")]


def describe(rows: list[dict[str, Any]]) -> str:
    """A line for each number of shots."""
    head = ["shots", "chosen", "its accuracy", "best cell", "regret"]
    lines = [
        [
            str(row["shots"]),
            _count(row["chosen"]),
            f"{row['accuracy']:.3f}",
            _count(row["best"]),
            _signed(row["regret"]),
        ]
        for row in rows
    ]
    return tables.format_markdown([head, *lines])


def _count(names: list[str]) -> str:
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _signed(regret: dict[str, Any]) -> str:
    low, high = regret["ci95"]
    return f"{regret['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
