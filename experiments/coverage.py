"""Are the guarantees kept? Simulated known pictures, of which nothing is left to doubt.

`python -m experiments.coverage` takes about an hour of one core, nearly all of it for the schemes of LOF.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import clip_fewshot as cf
from clip_fewshot.commands.cli.progress import show_progress
from clip_fewshot.commands.cli.run import run
from clip_fewshot.config import option
from clip_fewshot.report import tables
from clip_fewshot.types import Progress
from experiments.coverage_detectors import detectors, table
from experiments.simulated import SHAPES, Draw, Shape, draw, stream

PROG = "python -m experiments.coverage"
DESCRIPTION = (
    "False alarms of LOF with conformal p-values on simulated pictures: by scheme, by data shape, at several alphas; "
    "false discoveries of Benjamini-Hochberg and Storey in batches; false alarms and delay of the watch over a stream; "
    "false alarms of every detector as a rejector calibrates it."
)
ALPHAS = (0.01, 0.05, 0.1)
RANKED = ("pooled", "levelled", "per class")
SCHEMES = ("full", "leave-one-out", "split")
TOGETHER = "together"  # the pictures of a draw are one batch
KNOWN, NOVEL = 5, 2  # pictures judged in a draw
BATCH, BATCH_NOVEL = 40, 10
STREAM, BEGINS, SHARE = 600, 200, 0.2
ERRORS = 3  # standard errors that a rate may be above its level


@dataclass(frozen=True)
class Options:
    """Options of the simulation."""

    draws: int = option(2000, "support sets of each shape")
    detector_draws: int = option(50, "support sets of each shape for each detector")
    batches: int = option(1000, "batches whose false discoveries are counted")
    streams: int = option(1000, "streams that are watched")
    neighbors: int = option(5, "n_neighbors of LOF, and of the detectors that have any")
    level: float = option(0.05, "of the watch, over a whole stream")
    seed: int = option(0, "of everything drawn")
    json: bool = option(False, "print JSON")

    def __post_init__(self) -> None:
        for name in ("draws", "detector_draws", "batches", "streams"):
            if getattr(self, name) < 2:
                where = f"--{name.replace('_', '-')}"
                raise cf.UsageError(
                    expected="2 or more", got=str(getattr(self, name)), fix=f"change {where}", where=where
                )


def main(options: Options) -> int:
    """Simulate and print the tables, in which broken guarantees are marked."""
    with show_progress() as update:
        rows = [row for shape in SHAPES for row in coverage(options, shape, update)]
        found = {"schema": 1, "coverage": rows, "discoveries": discoveries(options, update)}
        found |= {"watch": watched(options, update)}
        found |= {"detectors": detectors(options.detector_draws, options.seed, options.neighbors, update)}
    print(json.dumps(found, indent=1) if options.json else text(found, options))
    return 0


def detector(options: Options) -> cf.LOFDetector:
    """The detector under test, not fitted."""
    return cf.LOFDetector(options.neighbors)


def coverage(options: Options, shape: Shape, update: Progress) -> list[dict[str, Any]]:
    """A row for each scheme: pooled, levelled and per class."""
    from clip_fewshot.conformal.calibration import Calibrated

    ways = [(scheme, ranked) for scheme in (TOGETHER, *SCHEMES) for ranked in RANKED]
    refused: dict[Any, list[dict[str, Any]]] = {}
    p: dict[Any, list[Any]] = defaultdict(list)
    truth = []
    for i in range(options.draws):
        update(f"draws of {shape.name}", i + 1, options.draws)
        world = draw(shape, options.seed + i, KNOWN, NOVEL)
        truth.append(world.known_y)
        for way in ways:
            how = {"per_class": way[1] == "per class", "levelled": way[1] == "levelled"}
            scheme = "leave-one-out" if way[0] == TOGETHER else way[0]
            calibrated = Calibrated(partial(detector, options), scheme, seed=i, **how).fit(world.X, world.y)
            refused[way] = [
                {"alpha": alpha, "refused": calibrated.refusal(alpha), "needed": calibrated.shots_needed(alpha)}
                for alpha in ALPHAS
            ]
            p[way].append(calibrated.p_values(np.concatenate([world.known, world.novel]), way[0] == TOGETHER))
    return [
        {
            "shape": shape.name,
            "scheme": way[0],
            "per_class": way[1] == "per class",
            "ranked": way[1],
            "cells": cells(np.array(p[way]), truth, refused[way]),
        }
        for way in ways
    ]


def cells(p: Any, truth: Sequence[Any], refused: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At each alpha: the refusal, or false alarms in all and in the class that has most, and what was found."""
    found: list[dict[str, Any]] = []
    for cell in refused:
        found.append(cell)
        if cell["refused"]:
            continue
        alpha = cell["alpha"]
        flags, classes = p <= alpha + 1e-9, np.array(truth)
        alarms = rate(flags[:, :KNOWN], np.ones_like(classes, dtype=bool))
        worst = max((rate(flags[:, :KNOWN], classes == c) for c in np.unique(classes)), key=lambda one: one["rate"])
        found[-1] = cell | {"kept": kept(alarms, alpha), "false_alarms": alarms, "worst_class": worst}
        found[-1] |= {"detected": float(flags[:, KNOWN:].mean())}
    return found


def rate(flags: Any, asked: Any) -> dict[str, float]:
    """The share of (draws, m) flags among those asked for, and its standard error over draws."""
    n, hits = asked.sum(), (flags & asked).sum(axis=1)
    share = hits.sum() / n
    return {"rate": float(share), "se": float(np.sqrt(np.sum((hits - share * asked.sum(axis=1)) ** 2)) / n)}


def kept(measured: dict[str, float], level: float) -> bool:
    """Whether a rate is at most its level, sampling error allowed for."""
    return measured["rate"] <= level + ERRORS * measured["se"] + 1e-9


def discoveries(options: Options, update: Progress) -> list[dict[str, Any]]:
    """The expected share of false discoveries in batches of which a quarter is new, and the share found."""
    from clip_fewshot.conformal.calibration import Calibrated
    from clip_fewshot.conformal.false_discoveries import benjamini_hochberg, storey

    shape, levels = Shape("batches", (32,) * 5), (0.1, 0.2)
    methods = {"Benjamini-Hochberg": benjamini_hochberg, "Storey": storey}
    shares: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for i in range(options.batches):
        update("batches", i + 1, options.batches)
        world = draw(shape, options.seed + i, BATCH - BATCH_NOVEL, BATCH_NOVEL)
        for scheme in SCHEMES:
            calibrated = Calibrated(partial(detector, options), scheme, seed=i).fit(world.X, world.y)
            p = calibrated.p_values(np.concatenate([world.known, world.novel]))
            for name, method in methods.items():
                for q in levels:
                    flags = method(p, q)
                    false, right = flags[:-BATCH_NOVEL].sum(), flags[-BATCH_NOVEL:].sum()
                    shares[scheme, name, q].append((false / max(1, flags.sum()), right / BATCH_NOVEL))
    rows = []
    for (scheme, name, q), values in shares.items():
        false, right = np.array(values).T
        fdr = {"rate": float(false.mean()), "se": float(false.std(ddof=1) / np.sqrt(len(false)))}
        rows.append({"scheme": scheme, "method": name, "q": q, "fdr": fdr, "kept": kept(fdr, q)})
        rows[-1] |= {"found": float(right.mean())}
    return rows


def watched(options: Options, update: Progress) -> list[dict[str, Any]]:
    """Alarms on streams of known pictures, and how long after a new category began, by what the p-values are."""
    shapes = (Shape("5 x 16 shots", (16,) * 5), Shape("5 x 64 shots", (64,) * 5))
    return [row for shape in shapes for row in _watched(options, shape, update)]


def _watched(options: Options, shape: Shape, update: Progress) -> list[dict[str, Any]]:
    from clip_fewshot.conformal.stream import first_alarms

    p: dict[tuple[str, bool], list[Any]] = defaultdict(list)
    for i in range(options.streams):
        update(f"streams, {shape.name}", i + 1, options.streams)
        world = draw(shape, options.seed + i, STREAM, STREAM)
        for name, found in judges(options, world, i).items():
            for changes in (False, True):
                pictures = stream(world, BEGINS, SHARE if changes else 0, i)
                p[name, changes].append(found(pictures))
    rows = []
    for name in dict.fromkeys(name for name, _ in p):
        null, late = (first_alarms(np.array(p[name, changes]), options.level) for changes in (False, True))
        after = late[(late == 0) | (late > BEGINS)]
        alarms = rate((null > 0)[:, None], np.ones((len(null), 1), dtype=bool))
        delays = np.where(after > 0, after - BEGINS, np.inf)
        rows.append(
            {"shape": shape.name, "p_values": name, "false_alarms": alarms, "kept": kept(alarms, options.level)}
        )
        rows[-1] |= {"noticed": float((after > 0).mean()), "delay": _finite(np.median(delays))}
        rows[-1] |= {"delay_90": _finite(np.quantile(delays, 0.9, method="higher"))}
    return rows


def judges(options: Options, world: Draw, seed: int) -> dict[str, Any]:
    """Three ways to the p-values of a stream; only the first is valid."""
    from clip_fewshot.conformal.calibration import Calibrated

    split = Calibrated(partial(detector, options), "split", smoothed=True, seed=seed).fit(world.X, world.y)
    held_out, whole = split.held_out(), detector(options).fit(world.X, world.y)
    return {
        "ranks, half of the shots calibrate": lambda X: ranks(
            held_out.scores, held_out.detector.score_samples(X), seed
        ),
        "ranks, all shots leave-one-out": lambda X: ranks(whole.loo_scores_, whole.score_samples(X), seed),
        "one calibration set for all": split.p_values,
    }


def ranks(calibration: Any, scores: Any, seed: int) -> list[float]:
    """The p-values of a stream, picture by picture."""
    from clip_fewshot.conformal.stream import StreamRanks

    follow = StreamRanks(calibration, seed)
    return [follow.update(score) for score in scores]


def text(found: dict[str, Any], options: Options) -> str:
    """Four tables; a figure that is more than three standard errors above its level has an exclamation mark."""
    head = ["shape, scheme", *(f"alpha {alpha:g}" for alpha in ALPHAS), "worst class", f"found at {ALPHAS[-1]:g}"]
    rows = [
        [f"{row['shape']}, {_way(row)}", *map(_cell, row["cells"]), *_last(row["cells"][-1])]
        for row in found["coverage"]
    ]
    batches = [
        [
            f"{row['scheme']}, {row['method']}",
            f"{row['q']:g}",
            _measured(row["fdr"], row["kept"]),
            f"{row['found']:.2f}",
        ]
        for row in found["discoveries"]
    ]
    watches = [
        [
            f"{row['shape']}, {row['p_values']}",
            _measured(row["false_alarms"], row["kept"]),
            f"{row['noticed']:.2f}",
            *(_number(row[name]) for name in ("delay", "delay_90")),
        ]
        for row in found["watch"]
    ]
    parts = [
        f"False alarms of LOF, {options.draws:,} draws, {KNOWN} known and {NOVEL} new pictures each, +- standard error",
        tables.format_plain([head, *rows]),
        f"\nFalse discoveries, {options.batches:,} batches of {BATCH}, {BATCH_NOVEL} of them new",
        tables.format_plain([["scheme, method", "q", "false", "found"], *batches]),
        f"\nWatch at {options.level:g}, {options.streams:,} streams of {STREAM} pictures; without a change, and with "
        f"{SHARE:.0%} new ones after {BEGINS}",
        tables.format_plain([["shape, p-values", "false alarms", "noticed", "median delay", "90 %"], *watches]),
        table(found["detectors"], options.detector_draws),
    ]
    return "\n".join(parts)


def _way(row: dict[str, Any]) -> str:
    return f"{row['scheme']}, {row['ranked']}"


def _cell(cell: dict[str, Any]) -> str:
    if cell["refused"]:
        return f"needs {cell['needed']:,}"
    return _measured(cell["false_alarms"], cell["kept"])


def _last(cell: dict[str, Any]) -> list[str]:
    return ["", ""] if cell["refused"] else [_measured(cell["worst_class"], True), f"{cell['detected']:.2f}"]


def _measured(found: dict[str, float], is_kept: bool) -> str:
    return f"{found['rate']:.4f} +- {found['se']:.4f}{'' if is_kept else ' !'}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
