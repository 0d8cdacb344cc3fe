"""Whether probabilities are right, with and without a temperature: `python -m experiments.calibration`."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.run import run
from clip_fewshot.commands.cli.shared_options import PicturesOptions, seed_option, seeds_option, shot_counts_option
from clip_fewshot.config import check_range, option
from clip_fewshot.data.sampling import OpenWorldSplit, draw_support, split_open_world
from clip_fewshot.evaluation.calibration import log_losses
from clip_fewshot.evaluation.reliability import Scores, score_probabilities
from clip_fewshot.features.encode import image_prefix
from clip_fewshot.features.prefix import Prefix
from clip_fewshot.few_shot.approach import Approach
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.report import tables
from clip_fewshot.types import FloatArray, LabelArray

PROG = "python -m experiments.calibration"
DESCRIPTION = (
    "Accuracy, NLL and ECE of classifiers on sealed pictures by shots per class; of those with a head also without a "
    "temperature, and with the one that is best for the sealed pictures, which no user has."
)
SHOTS = (1, 2, 4, 16)
ARCFACE = Approach(
    "arcface",
    head="arcface",
    loss="cross-entropy",
    centre={"unfreeze": 1, "backbone_lr": 1e-4, "head_lr": 1e-3, "margin": 0.2, "scale": 16.0},
)
METHODS: tuple[str | Approach, ...] = ("linear-probe", "text-prior", "contrastive", "mlp", "mlp-arcface", ARCFACE)


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions):
    """Of the comparison."""

    shot_counts: tuple[int, ...] = shot_counts_option(SHOTS)
    unfreeze: int = option(1, "last layers that train", group="model")
    seeds: int = seeds_option()
    seed: int = seed_option()

    def __post_init__(self) -> None:
        check_range(self, "shot_counts", "unfreeze", "seeds")


class Sealed(NamedTuple):
    """The sealed pictures behind the frozen layers."""

    prefix: Prefix
    labels: LabelArray


def main(options: Options) -> int:
    """Measure and print."""
    data = opening.open_data(options.data, **options.reading())
    split, backbone = split_open_world(data, shots=1, seed=options.seed), load_backbone(options.model_name)
    test = split.test.open("calibration")
    sealed = Sealed(image_prefix(backbone, test, [options.unfreeze]), test.required_labels())
    rows = [
        row
        for shots in options.shot_counts or SHOTS
        for method in METHODS
        for row in measure(backbone, split, sealed, method, shots, options)
    ]
    found = {"schema": 1, "data": options.data, "model": options.model_name, "n_test": len(sealed.labels)}
    print(json.dumps(found | {"rows": rows}, indent=1) if options.json else describe(rows))
    return 0


def measure(
    backbone: Backbone, split: OpenWorldSplit, sealed: Sealed, method: str | Approach, shots: int, options: Options
) -> Iterator[dict[str, Any]]:
    """A row for each way to make probabilities of the method's logits, over support sets."""
    said: dict[str, list[FloatArray]] = defaultdict(list)
    name = method if isinstance(method, str) else method.name
    for draw in range(options.seeds):
        support = draw_support(split.pool, shots, options.seed + draw)
        fitted = FewShotClassifier(backbone, method, unfreeze=_depth(method, options.unfreeze)).fit(support).model_
        features = fitted.features(sealed.prefix)
        said[name].append(fitted.probabilities(features))
        if fitted.head is not None:
            logits = fitted.logits(features).astype(np.float64)
            said[f"{name}, no temperature"].append(softmax(logits, axis=1))
            said[f"{name}, the best"].append(softmax(logits / find_best(logits, sealed.labels), axis=1))
    for key, probabilities in said.items():
        yield {"shots": shots, "method": key, **as_json(score_probabilities(sealed.labels, probabilities))}


def _depth(method: str | Approach, unfreeze: int) -> int | None:
    return None if method in ("linear-probe", "text-prior") else unfreeze


def find_best(logits: FloatArray, labels: LabelArray) -> float:
    """The temperature with the least loss on these very pictures."""

    def loss(log_temperature: float) -> float:
        return float(log_losses(logits / np.exp(log_temperature), labels).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x))


def as_json(scores: Scores) -> dict[str, Any]:
    """Each figure with its interval."""
    return {name: result.to_json() for name, result in scores._asdict().items()}


def describe(rows: list[dict[str, Any]]) -> str:
    """A line for each method, a column for each number of shots: accuracy, NLL and ECE."""
    counts = sorted({row["shots"] for row in rows})
    cells: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        figures = (tables.format_fraction(row[key]["mean"]) for key in ("accuracy", "nll", "ece"))
        cells[row["method"]].append(", ".join(figures))
    return tables.format_markdown([["shots per class", *map(str, counts)], *([k, *v] for k, v in cells.items())])


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
