"""On which classes do the false alarms fall? `python -m experiments.fairness digits digits-wild --detectors knn`."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import beta

from clip_fewshot.commands.cli.run import run
from clip_fewshot.config import check_fractions, check_range, option
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.novelty import DETECTORS, build_detector
from clip_fewshot.report import tables
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import BoolArray, IndexArray
from experiments.coverage import RANKED
from experiments.text_prior import Pictures, draw_rows
from experiments.text_prior_constants import Options as SetOptions
from experiments.text_prior_constants import open_set

PROG = "python -m experiments.fairness"
DESCRIPTION = (
    "False alarms in all and on the class that has most, and pictures of hidden classes found, where scores are ranked "
    "pooled, levelled and within each class. Three tenths of the classes are hidden, others in each support set."
)
HIDDEN = 0.3
DOUBT = 0.05  # of a class being above twice alpha by chance, over all classes


@dataclass(frozen=True, kw_only=True)
class Options(SetOptions):
    """Of the measurement."""

    alpha: float = option(0.1, "share of known pictures that may be flagged, in (0, 1)")
    detectors: tuple[str, ...] = option(("knn",), "detectors that the shots can calibrate")

    def __post_init__(self) -> None:
        check_fractions(self, "alpha")
        check_range(self, "shot_counts", "seeds")


def main(options: Options) -> int:
    """Measure and print."""
    sets = {source: open_set(source, options) for source in options.sources}
    rows = [row for source, pictures in sets.items() for row in measure(source, pictures, options)]
    print(json.dumps({"schema": 1, "rows": rows}, indent=1) if options.json else describe(rows))
    return 0


def measure(source: str, pictures: Pictures, options: Options) -> Iterator[dict[str, Any]]:
    """A row for each detector, number of shots and way to rank that the shots support."""
    n = len(pictures.texts)
    for name in options.detectors:
        for shots in options.shot_counts or (4, 8, 16):
            found: dict[str, list[tuple[Any, BoolArray, BoolArray]]] = defaultdict(list)
            for draw in range(options.seeds):
                rng = generator(options.seed, "fairness", shots, draw)
                seen = np.sort(rng.permutation(n)[: n - max(2, round(HIDDEN * n))])
                support = draw_rows(pictures.pool_labels, np.isin(np.arange(n), seen) * shots, rng)
                for way, flags in judge(pictures, support, name, options.alpha):
                    known = np.isin(pictures.labels, seen)
                    found[way].append((pictures.labels[known], flags[known], flags[~known]))
            told = {"data": source, "detector": name, "shots": shots, "alpha": options.alpha}
            yield from (told | {"ranked": way} | summarise(draws, options.alpha) for way, draws in found.items())


def judge(pictures: Pictures, support: IndexArray, name: str, alpha: float) -> Iterator[tuple[str, BoolArray]]:
    """Which sealed pictures are called novel."""
    for way in RANKED:
        how = {"per_class": way == "per class", "levelled": way == "levelled"}
        calibrated = Calibrated(lambda: build_detector(name), DETECTORS[name].scheme or "split", **how)
        calibrated.fit(pictures.pool[support], pictures.pool_labels[support])
        if calibrated.refusal(alpha) is None:
            yield way, calibrated.flags(calibrated.p_values(pictures.test), alpha)


def summarise(draws: Sequence[tuple[Any, BoolArray, BoolArray]], alpha: float) -> dict[str, Any]:
    """Means over support sets; a class counts where it was known."""
    labels, flags = (np.concatenate([draw[i] for draw in draws]) for i in (0, 1))
    classes = np.unique(labels)
    hits, counts = (np.array([part[labels == one].sum() for one in classes]) for part in (flags, np.ones_like(labels)))
    surely = beta.ppf(DOUBT / len(classes), np.maximum(hits, 1e-9), counts - hits + 1)
    return {
        "false_alarms": float(np.mean([known.mean() for _, known, _ in draws])),
        "worst_class": float((hits / counts).max()),
        "above": int((surely > 2 * alpha).sum()),
        "found": float(np.mean([novel.mean() for _, _, novel in draws])),
    }


def describe(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each row."""
    head = ["data, detector, shots, ranked", "false alarms", "worst class", "classes above 2 alpha", "found"]
    lines = [
        [
            f"{row['data']}, {row['detector']}, {row['shots']}, {row['ranked']}",
            *(f"{row[key]:.3f}" for key in ("false_alarms", "worst_class")),
            str(row["above"]),
            f"{row['found']:.3f}",
        ]
        for row in rows
    ]
    return tables.format_markdown([head, *lines])


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
