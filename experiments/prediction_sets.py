"""Do sets of classes hold the true one as often as promised? `python -m experiments.prediction_sets`.

The first tables simulate clusters with class texts beside them, the others take pictures.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

import clip_fewshot as cf
from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.run import run
from clip_fewshot.commands.cli.shared_options import seeds_option, sets_argument, shot_counts_option
from clip_fewshot.config import check_range, model_for, option
from clip_fewshot.conformal.p_values import cross_p_values
from clip_fewshot.conformal.prediction_sets import class_p_values, measure_losses, prediction_sets
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.features.encode import image_features
from clip_fewshot.features.texts import class_texts
from clip_fewshot.novelty.rows import split_left_out
from clip_fewshot.open_world.add_class import split_known
from clip_fewshot.probes import Probe
from clip_fewshot.probes.text_prior import TextPriorProbe
from clip_fewshot.report import tables
from clip_fewshot.runtime.rng import generator
from clip_fewshot.tuning.last_layers import copy_last_layers
from clip_fewshot.types import BoolArray, FloatArray, LabelArray

PROG = "python -m experiments.prediction_sets"
DESCRIPTION = "Coverage and size of sets of classes by what they are calibrated on, simulated and on pictures."
SHOTS, ALPHAS = (1, 2, 4, 8, 16), (0.05, 0.1, 0.2)
CLASSES, DIMENSIONS, NEW = 8, 24, 200
Fit = Callable[[FloatArray, LabelArray], Probe]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of the comparison."""

    sets: tuple[str, ...] = sets_argument()
    shot_counts: tuple[int, ...] = shot_counts_option(SHOTS)
    simulated: int = option(200, "support sets of the simulation; 0 for none")
    seeds: int = seeds_option()
    json: bool = option(False, "print JSON on standard output", group="output")

    def __post_init__(self) -> None:
        check_range(self, "seeds")
        check_range(self, "simulated", least=0)


class Draw(NamedTuple):
    """(n, d) shots with their labels, new pictures with theirs, and (c, d) texts."""

    X: FloatArray
    y: LabelArray
    new: FloatArray
    new_y: LabelArray
    texts: FloatArray


def main(options: Options) -> int:
    """Measure and print."""
    rows = [] if not options.simulated else list(summarise("simulated", options, _simulated, options.simulated))
    for name in options.sets:
        rows += summarise(name, options, partial(_drawn, _look(name)), options.seeds)
    print(json.dumps({"schema": 1, "rows": rows}, indent=1) if options.json else describe(rows))
    return 0


def _look(name: str) -> Draw:
    """All pictures of a set, as shots."""
    backbone, pictures = cf.load_backbone(model_for(name, None)), opening.open_data(name)
    (features,) = image_features(backbone, pictures, [(0, copy_last_layers(backbone.visual, 0))])
    texts = np.stack([*class_texts(backbone, pictures.label_space.names, TEMPLATES).values()])
    return Draw(features, pictures.required_labels(), features[:0], np.empty(0, np.int64), texts)


def _simulated(shots: int, seed: int) -> Draw:
    random = generator(seed, "simulated sets", shots)
    centres = random.normal(size=(CLASSES, DIMENSIONS)) / 2
    labels, new_y = np.repeat(np.arange(CLASSES), shots), random.integers(0, CLASSES, NEW)
    X, new = (centres[y] + 0.6 * random.normal(size=(len(y), DIMENSIONS)) for y in (labels, new_y))
    return Draw(X, labels, new, new_y, centres + 0.5 * random.normal(size=centres.shape))


def _drawn(given: Draw, shots: int, seed: int) -> Draw:
    order = generator(seed, "sets of pictures", shots).permutation(len(given.y))
    shown = np.concatenate([order[given.y[order] == label][:shots] for label in range(len(given.texts))])
    new = order[~np.isin(order, shown)][:NEW]
    return Draw(given.X[shown], given.y[shown], given.X[new], given.y[new], given.texts)


def summarise(name: str, options: Options, make: Callable[[int, int], Draw], draws: int) -> Iterator[dict[str, Any]]:
    """A row for each way and probe: coverage, its standard error over draws, and size by shots and alpha."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for shots in options.shot_counts or SHOTS:
        for draw in (make(shots, seed) for seed in range(draws)):
            for probe, fit in _probes(draw.texts).items():
                for way, p in measure(draw, fit).items():
                    for alpha in ALPHAS:
                        cell = found[probe, way][f"{shots} shots, alpha {alpha:g}"]
                        cell.append(score(prediction_sets(p, alpha), draw.new_y))
    for (probe, way), cells in found.items():
        yield {"data": name, "probe": probe, "way": way, "cells": {key: _mean(cell) for key, cell in cells.items()}}


def _mean(cell: list[tuple[float, float]]) -> dict[str, float]:
    held, size = np.array(cell).T
    error = held.std(ddof=1) / np.sqrt(len(held)) if len(held) > 1 else 0.0
    return {"coverage": float(held.mean()), "se": float(error), "size": float(size.mean())}


def score(sets: BoolArray, truth: LabelArray) -> tuple[float, float]:
    """How often sets hold the class, and how many classes they hold."""
    return float(sets[np.arange(len(truth)), truth].mean()), float(sets.sum(axis=1).mean())


def _probes(texts: FloatArray) -> Mapping[str, Fit]:
    def read(X: FloatArray, y: LabelArray) -> Probe:
        probe = TextPriorProbe({label: texts[label] for label in np.unique(y).tolist()}).fit(X, y)
        for label in set(range(len(texts))) - set(y.tolist()):
            probe = probe.extend(X[:0], label, X, text=texts[label])
        return probe

    return {"text-prior": read, "prototype": lambda X, y: cf.PROBES["prototype"]().fit(X, y)}


def measure(draw: Draw, fit: Fit) -> dict[str, FloatArray]:
    """(m, c) p-values of each way; "cross-validation" is that of the library."""
    c, shots = len(draw.texts), int(np.bincount(draw.y).max())
    final, own = losses(fit(draw.X, draw.y), draw.new, c), np.empty(len(draw.y))
    folds, per_fold = split_known(draw.y), []
    for part in folds:
        probe = fit(np.delete(draw.X, part, axis=0), np.delete(draw.y, part))
        own[part] = losses(probe, draw.X[part], c)[np.arange(len(part)), draw.y[part]]
        per_fold.append(losses(probe, draw.new, c))
    cross = cross_p_values([-own[part] for part in folds], [-table.ravel() for table in per_fold]).reshape(final.shape)
    found = {"cross-validation": class_p_values(own, final), "a model a fold": cross}
    if shots > 1:
        half, other = split_left_out(draw.y, 0, 2)
        probe = fit(draw.X[half], draw.y[half])
        held = losses(probe, draw.X[other], c)[np.arange(len(other)), draw.y[other]]
        found["split"] = class_p_values(held, losses(probe, draw.new, c))
    left_out = fit(draw.X, draw.y).left_out_logits()  # type: ignore[attr-defined]
    closed = measure_losses(softmax(left_out, axis=1))[np.arange(len(draw.y)), draw.y]
    return found | {"closed form": class_p_values(closed, final)}


def losses(probe: Probe, X: FloatArray, c: int) -> FloatArray:
    """(m, c) -ln p; of a class that the probe does not know, that of the impossible."""
    p = np.zeros((len(X), c))
    p[:, probe.classes_.astype(int)] = probe.predict_proba(X)
    return measure_losses(p)


def describe(rows: list[dict[str, Any]]) -> str:
    """A table for each set and probe: coverage with its standard error, and size."""
    parts = []
    for data, probe in dict.fromkeys((row["data"], row["probe"]) for row in rows):
        mine = [row for row in rows if (row["data"], row["probe"]) == (data, probe)]
        lines = [["", *(row["way"] for row in mine)]]
        for key in mine[0]["cells"]:
            cells = [row["cells"].get(key) for row in mine]
            lines.append([key, *(_cell(cell) if cell else "-" for cell in cells)])
        parts.append(f"{data}, {probe}: coverage +- standard error, classes a picture\n{tables.format_plain(lines)}")
    return "\n\n".join(parts)


def _cell(cell: Mapping[str, float]) -> str:
    return f"{cell['coverage']:.3f} +-{cell['se']:.3f} {cell['size']:.2f}"


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
