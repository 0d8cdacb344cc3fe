"""What names and unlabelled pictures are worth: `python -m experiments.text_prior` (docs/figures/text_prior.md)."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.run import run
from clip_fewshot.commands.cli.shared_options import PicturesOptions, seed_option, seeds_option, shot_counts_option
from clip_fewshot.config import check_range, option
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.evaluation.calibration import log_losses
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.features.encode import encode_images
from clip_fewshot.few_shot.objectives import read_class_texts
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes import LinearProbe
from clip_fewshot.probes.text_prior import TextPriorProbe
from clip_fewshot.report import tables
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

PROG = "python -m experiments.text_prior"
DESCRIPTION = (
    "Accuracy and loss on sealed pictures by shots per class: zero-shot, the frozen probe and the text-informed probe, "
    "with the texts of the classes or texts that say nothing, and with unlabelled pictures, whose classes are equally "
    "frequent or the first ten times as frequent as the last."
)
SHOTS = (1, 2, 4, 16)


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions):
    """Of the comparison."""

    shot_counts: tuple[int, ...] = shot_counts_option(SHOTS)
    unlabelled: int = option(40, "unlabelled pictures of the most frequent class", group="support sets")
    seeds: int = seeds_option()
    seed: int = seed_option()

    def __post_init__(self) -> None:
        check_range(self, "shot_counts", "unlabelled", "seeds")


class Pictures(NamedTuple):
    """Frozen features, their labels, and the texts of the classes."""

    pool: FloatArray
    pool_labels: LabelArray
    test: FloatArray
    labels: LabelArray
    texts: FloatArray


def main(options: Options) -> int:
    """Measure and print."""
    pictures = see(options)
    rows = [row for shots in options.shot_counts or SHOTS for row in measure(pictures, shots, options)]
    found = {"schema": 1, "data": options.data, "model": options.model_name, "n_test": len(pictures.labels)}
    print(json.dumps(found | {"rows": rows}, indent=1) if options.json else describe(rows))
    return 0


def see(options: Options) -> Pictures:
    """The training side and the sealed side through the frozen tower."""
    data = opening.open_data(options.data, **options.reading())
    split = split_open_world(data, shots=1, seed=options.seed)
    backbone, test = load_backbone(options.model_name, device=options.device), split.test.open("text prior")
    pool, sealed = (encode_images(backbone, side).features for side in (split.pool, test))
    texts = read_class_texts(backbone, split.seen.names, ())
    return Pictures(pool, split.pool.required_labels(), sealed, test.required_labels(), texts)


def measure(pictures: Pictures, shots: int, options: Options) -> Iterator[dict[str, Any]]:
    """A row for each method, over support sets of ``shots`` a class."""
    logits: dict[str, list[FloatArray]] = defaultdict(list)
    for draw in range(options.seeds):
        rng = generator(options.seed, "text prior", shots, draw)
        support = draw_rows(pictures.pool_labels, np.full(len(pictures.texts), shots), rng)
        for method, found in classify(pictures, support, options.unlabelled, rng):
            logits[method].append(found)
    for method, per_draw in logits.items():
        right = accuracy_interval([found.argmax(axis=1) == pictures.labels for found in per_draw])
        losses = [float(log_losses(found, pictures.labels).mean()) for found in per_draw]
        loss = None if method == "zero-shot" else float(np.mean(losses))  # of no scale
        yield {"shots": shots, "method": method, "accuracy": right.to_json(), "loss": loss}


def classify(
    pictures: Pictures, support: IndexArray, most: int, rng: np.random.Generator
) -> Iterator[tuple[str, FloatArray]]:
    """(method, (n, c) logits of the sealed pictures)."""
    X, y = pictures.pool[support], pictures.pool_labels[support]
    yield "zero-shot", unit_rows(pictures.test) @ pictures.texts.T
    yield "frozen probe", LinearProbe().fit(X, y).logits(pictures.test)
    left = np.setdiff1d(np.arange(len(pictures.pool)), support)
    spread = rng.normal(size=(len(pictures.texts), len(left))) @ (
        pictures.pool[left] - pictures.pool[left].mean(axis=0)
    )
    even = np.full(len(pictures.texts), most)
    uneven = np.maximum(1, np.round(most * 10.0 ** -np.linspace(0, 1, len(even)))).astype(int)
    queries = {"": None, ", unlabelled": even, ", unlabelled 10 : 1": uneven}
    for kind, texts in (("text-prior", pictures.texts), ("random texts", unit_rows(spread))):
        for name, counts in queries.items():
            Q = None if counts is None else pictures.pool[left[draw_rows(pictures.pool_labels[left], counts, rng)]]
            probe = TextPriorProbe(dict(enumerate(texts))).fit(X, y, unlabelled=Q)
            yield kind + name, probe.logits(pictures.test)


def draw_rows(labels: LabelArray, counts: IndexArray, rng: np.random.Generator) -> IndexArray:
    """Row numbers of up to ``counts[j]`` rows of each class j."""
    drawn = [rng.permutation(np.flatnonzero(labels == j))[:count] for j, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn))


def describe(rows: list[dict[str, Any]]) -> str:
    """A line for each method, a column for each number of shots: accuracy with its interval, and loss."""
    counts = sorted({row["shots"] for row in rows})
    cells: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        loss = "" if row["loss"] is None else f", {row['loss']:.3f}"
        cells[row["method"]].append(tables.estimate_of(row["accuracy"]) + loss)
    lines = [[name, *line] for name, line in cells.items()]
    return tables.format_markdown([["shots per class", *map(str, counts)], *lines])


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
