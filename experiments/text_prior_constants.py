"""Is a constant fitted to its sets? `python -m experiments.text_prior_constants digits digits-wild`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.commands.cli.run import run
from clip_fewshot.commands.cli.shared_options import (
    PICTURES,
    CommandOptions,
    DeviceOptions,
    seed_option,
    seeds_option,
    shot_counts_option,
)
from clip_fewshot.config import MODEL_HELP, check_range, option
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.evaluation.calibration import log_losses
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes import PROBES, cache, joined, kernel_ridge, penalty, refine, support, text_mean, twins
from clip_fewshot.probes.text_prior import TextPriorProbe
from clip_fewshot.report import tables
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray
from experiments.text_prior import Options as SetOptions
from experiments.text_prior import Pictures, draw_rows, see

PROG = "python -m experiments.text_prior_constants"
DESCRIPTION = (
    "Choose each constant of the text-informed probe, its mixture over unlabelled pictures, the prior on C and "
    "the closed forms of the field again, by the log loss on all sets but one, and measure it on that one."
)
FEW_SHOTS = (1, 2, 4)
QUERIES = 40  # unlabelled pictures of the most frequent class
FEATURES = ".npz"


@dataclass(frozen=True, kw_only=True)
class Options(DeviceOptions, CommandOptions):
    """Of the comparison."""

    sources: tuple[str, ...] = field(
        metadata={
            "positional": True,
            "metavar": "DATA",
            "help": f"two or more of: {PICTURES}; a file {FEATURES} with X (n, d), y (n,) and the texts T (c, d)",
        }
    )
    model: str | None = option(None, MODEL_HELP, group="model")
    shot_counts: tuple[int, ...] = shot_counts_option(FEW_SHOTS)
    seeds: int = seeds_option()
    seed: int = seed_option()

    def __post_init__(self) -> None:
        check_range(self, "shot_counts", "seeds")
        if len(set(self.sources)) < 2:
            raise UsageError(expected="2 sets or more", got=str(len(set(self.sources))), fix="add one", where="DATA")


class Constant(NamedTuple):
    """One number of the library, the others that are tried in its place, and the probe that it is measured by."""

    name: str
    module: ModuleType
    others: tuple[float, ...]
    method: str

    @property
    def usual(self) -> float:
        """What the library has."""
        return float(getattr(self.module, self.name))


TEXTS, MIXTURE, FROZEN = "text-prior", "text-prior, unlabelled", "logistic"
CONSTANTS = (
    Constant("USUAL_SPREAD", text_mean, (1.0, 4.0), TEXTS),
    Constant("SPREAD_SD", text_mean, (0.35, 1.4), TEXTS),
    Constant("USUAL_LIKENESS", twins, (0.2, 0.6), TEXTS),
    Constant("USUAL_PAIRS", twins, (2.0, 20.0), TEXTS),
    Constant("NOISE_DIRECTIONS", twins, (2.0, 15.0), TEXTS),
    Constant("DISTRUST", text_mean, (1.0, 16.0), TEXTS),
    Constant("KAPPA", refine, (5.0, 20.0), MIXTURE),
    Constant("EVEN", refine, (0.03, 0.3), MIXTURE),
    Constant("SHARPNESS_SD", refine, (0.25, 1.0), MIXTURE),
    Constant("DOUBT", refine, (1.0, 4.0), MIXTURE),
    Constant("USUAL_EXPONENT", penalty, (2.3, 4.3), FROZEN),
    Constant("EXPONENT_SD", penalty, (0.75, 3.0), FROZEN),
    Constant("BETA_SD", cache, (0.35, 1.4), "tip-adapter"),
    Constant("BETA_SD", kernel_ridge, (0.35, 1.4), "proker"),
    Constant("USUAL_SHARE", joined, (0.25, 0.75), "prototype-text"),
    Constant("USUAL_SHARE", joined, (0.25, 0.75), "gda-text"),
    Constant("USUAL_NOISE", support, (0.08, 0.3), "tip-adapter"),
    Constant("USUAL_NOISE", support, (0.08, 0.3), "prototype-text"),
)


class Figures(NamedTuple):
    """Means over support sets and numbers of shots."""

    accuracy: float
    loss: float


def main(options: Options) -> int:
    """Measure and print."""
    sets = {source: open_set(source, options) for source in options.sources}
    rows = [row for constant in CONSTANTS for row in leave_out(constant, sets, options)]
    print(json.dumps({"schema": 1, "rows": rows}, indent=1) if options.json else describe(rows))
    return 0


def open_set(source: str, options: Options) -> Pictures:
    """Pictures through the frozen tower, or features from a file: half of each class is the pool.

    Raises:
        DataError: a file without these arrays.
    """
    if not source.endswith(FEATURES):
        return see(SetOptions(data=source, model=options.model, device=options.device, seed=options.seed))
    try:
        with np.load(Path(source), allow_pickle=False) as file:
            X, y, texts = (np.asarray(file[name]) for name in "XyT")
        if not (X.ndim == texts.ndim == 2 and np.array_equal(np.unique(y), np.arange(len(texts)))):
            raise ValueError(f"shapes {X.shape}, {y.shape} and {texts.shape}, classes {np.unique(y)[:5]}...")
    except (OSError, KeyError, ValueError) as error:
        fix = "write X (n, d), y (n,) in 0..c-1 and T (c, d) with numpy.savez"
        raise DataError(expected="arrays X, y and T", got=str(error), fix=fix, where=source) from error
    half = draw_rows(y, np.bincount(y) // 2, generator(options.seed, "text prior", "halves"))
    rest = np.setdiff1d(np.arange(len(y)), half)
    return Pictures(X[half], y[half], X[rest], y[rest], unit_rows(texts), X[:0])


def leave_out(constant: Constant, sets: Mapping[str, Pictures], options: Options) -> Iterator[dict[str, Any]]:
    """For each set, what the others choose, and what it does there."""
    values = (constant.usual, *constant.others)
    found: dict[str, list[Figures]] = {name: [] for name in sets}
    for value in values:
        with put(constant, value):
            for name, pictures in sets.items():
                found[name].append(measure(pictures, constant.method, options))
    for name in sets:
        others = [np.mean([found[other][i].loss for other in sets if other != name]) for i in range(len(values))]
        chosen = int(np.argmin(others))
        usual, there = found[name][0], found[name][chosen]
        yield {
            "constant": f"{constant.name}, {constant.method}",
            "usual": constant.usual,
            "tried": sorted(values),
            "left_out": name,
            "chosen": values[chosen],
            "accuracy": usual.accuracy,
            "loss": usual.loss,
            "accuracy_change": there.accuracy - usual.accuracy,
            "loss_change": there.loss - usual.loss,
        }


@contextmanager
def put(constant: Constant, value: float) -> Iterator[None]:
    """The library with another value of a constant."""
    before = constant.usual
    setattr(constant.module, constant.name, value)
    try:
        yield
    finally:
        setattr(constant.module, constant.name, before)


def measure(pictures: Pictures, method: str, options: Options) -> Figures:
    """The same support sets for each value."""
    right, losses = [], []
    for shots in options.shot_counts or FEW_SHOTS:
        for draw in range(options.seeds):
            rng = generator(options.seed, "text prior", shots, draw)
            support = draw_rows(pictures.pool_labels, np.full(len(pictures.texts), shots), rng)
            for logits in classify(pictures, support, method, rng):
                right.append(float((logits.argmax(axis=1) == pictures.labels).mean()))
                losses.append(float(log_losses(logits, pictures.labels).mean()))
    return Figures(float(np.mean(right)), float(np.mean(losses)))


def classify(pictures: Pictures, support: IndexArray, method: str, rng: np.random.Generator) -> Iterator[FloatArray]:
    """(n, c) logits of the sealed pictures; with unlabelled ones for equally frequent classes and for 10 : 1."""
    X, y = pictures.pool[support], pictures.pool_labels[support]
    texts = dict(enumerate(pictures.texts))
    if method != MIXTURE:
        kind: type[Any] = PROBES[method]
        yield (kind(texts=texts) if getattr(kind, "reads_texts", False) else kind()).fit(X, y).logits(pictures.test)
        return
    left = np.setdiff1d(np.arange(len(pictures.pool)), support)
    for ratio in (1.0, 10.0):
        counts = np.maximum(1, np.round(QUERIES * ratio ** -np.linspace(0, 1, len(texts)))).astype(np.int64)
        queries = pictures.pool[left[draw_rows(pictures.pool_labels[left], counts, rng)]]
        yield TextPriorProbe(texts).fit(X, y, unlabelled=queries).logits(pictures.test)


def describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each constant, a column for each set that is left out: the choice, and its accuracy and loss there."""
    names = list(dict.fromkeys(row["left_out"] for row in rows))
    lines = [["constant, probe: value (tried)", *(Path(name).stem for name in names)]]
    for constant in dict.fromkeys(row["constant"] for row in rows):
        own = [row for row in rows if row["constant"] == constant]
        tried = ", ".join(f"{value:g}" for value in own[0]["tried"])
        cells = [
            f"{row['chosen']:g}: {row['accuracy']:.3f} {row['accuracy_change']:+.3f}, "
            f"{row['loss']:.3f} {row['loss_change']:+.3f}"
            for row in own
        ]
        lines.append([f"{constant}: {own[0]['usual']:g} ({tried})", *cells])
    return tables.format_markdown(lines)


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
