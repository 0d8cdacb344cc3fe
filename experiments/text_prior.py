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
from clip_fewshot.few_shot.screening import screen
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes import LinearProbe
from clip_fewshot.probes.text_prior import TextPriorProbe
from clip_fewshot.report import tables
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray, LabelArray
from experiments.label_propagation import classify_by_propagation

PROG = "python -m experiments.text_prior"
DESCRIPTION = (
    "Accuracy and loss on sealed pictures by shots per class: zero-shot, the frozen probe and the text-informed probe, "
    "with the texts of the classes or texts that say nothing, and with unlabelled pictures, whose classes are equally "
    "frequent or the first ten times as frequent as the last; or of which one in five shows something else, with and "
    "without what leaves such out. DATA may be an .npz with features X (n, d), classes y (n,) and texts T (c, d)."
)
SHOTS = (1, 2, 4, 16)


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions):
    """Of the comparison."""

    shot_counts: tuple[int, ...] = shot_counts_option(SHOTS)
    queries: int = option(40, "unlabelled pictures of the most frequent class", group="support sets")
    hidden: int = option(0, "the last classes that are hidden: a fifth of the unlabelled shows them", group="data")
    seeds: int = seeds_option()
    seed: int = seed_option()

    def __post_init__(self) -> None:
        check_range(self, "shot_counts", "queries", "seeds")
        check_range(self, "hidden", least=0)


class Pictures(NamedTuple):
    """Frozen features, their labels, the texts of the classes, and features of other classes."""

    pool: FloatArray
    pool_labels: LabelArray
    test: FloatArray
    labels: LabelArray
    texts: FloatArray
    strange: FloatArray = np.empty((0, 0))

    def hide(self, n: int) -> Pictures:
        """The last n classes become strange ones."""
        c = len(self.texts) - n
        known, asked = self.pool_labels < c, self.labels < c
        return Pictures(
            self.pool[known],
            self.pool_labels[known],
            self.test[asked],
            self.labels[asked],
            self.texts[:c],
            self.pool[~known],
        )


def main(options: Options) -> int:
    """Measure and print."""
    pictures = (read_features(options) if options.data.endswith(".npz") else see(options)).hide(options.hidden)
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


def read_features(options: Options) -> Pictures:
    """Features that were made elsewhere; a third of each class is sealed."""
    with np.load(options.data, allow_pickle=False) as held:
        X, y, texts = held["X"].astype(np.float64), held["y"], unit_rows(held["T"].astype(np.float64))
    thirds = np.bincount(y) // 3
    sealed = draw_rows(y, thirds, generator(options.seed, "text prior", "sealed"))
    pool = np.setdiff1d(np.arange(len(y)), sealed)
    return Pictures(X[pool], y[pool], X[sealed], y[sealed], texts)


def measure(pictures: Pictures, shots: int, options: Options) -> Iterator[dict[str, Any]]:
    """A row for each method, over support sets of ``shots`` a class."""
    logits: dict[str, list[FloatArray]] = defaultdict(list)
    for draw in range(options.seeds):
        rng = generator(options.seed, "text prior", shots, draw)
        support = draw_rows(pictures.pool_labels, np.full(len(pictures.texts), shots), rng)
        for method, found in classify(pictures, support, options.queries, rng):
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
    queries = list(draw_queries(pictures, left, most, rng))
    if len(pictures.strange):
        queries += [(f"{name}, left out", screen(Q, X, y).features) for name, Q in queries]
    for kind, texts in (("text-prior", pictures.texts), ("random texts", unit_rows(spread))):
        plain = TextPriorProbe(dict(enumerate(texts))).fit(X, y)
        yield kind, plain.logits(pictures.test)
        for name, Q in queries:
            probe = TextPriorProbe(dict(enumerate(texts))).fit(X, y, unlabelled=Q)
            yield kind + name, probe.logits(pictures.test)
            if kind == "text-prior" and not len(pictures.strange):
                p = plain.predict_proba(pictures.test)
                yield (
                    f"label propagation{name}",
                    classify_by_propagation(p, pictures.test, plain.predict_proba(Q), Q),
                )


def draw_queries(
    pictures: Pictures, left: IndexArray, most: int, rng: np.random.Generator
) -> Iterator[tuple[str, FloatArray]]:
    """(name, (q, d) features) of unlabelled pictures, from rows that no support set has."""
    labels, n_classes = pictures.pool_labels[left], len(pictures.texts)
    counts = np.full(n_classes, most)
    if not len(pictures.strange):
        uneven = np.maximum(1, np.round(most * 10.0 ** -np.linspace(0, 1, n_classes))).astype(int)
        for name, drawn in (("", counts), (" 10 : 1", uneven)):
            yield f", unlabelled{name}", pictures.pool[left[draw_rows(labels, drawn, rng)]]
        return
    known = pictures.pool[left[draw_rows(labels, counts, rng)]]
    strange = pictures.strange[rng.permutation(len(pictures.strange))[: len(known) // 4]]
    yield ", unlabelled", known
    yield ", unlabelled, a fifth strange", np.concatenate([known, strange])


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
