"""Local outlier factors: scikit-learn's brute force, against ours; p-values: a fit for each, against ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip_fewshot import LOFDetector
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.novelty import KNNDetector
from clip_fewshot.types import FloatArray
from experiments.benchmark.options import Options
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import clip_like
from experiments.benchmark.timing import Side, Watch, interleave

NEIGHBOURS = 20
FIT, SCORE = "fit", "score"


@dataclass(frozen=True)
class Sizes:
    """How many rows and queries, and how wide."""

    classes: int = 100
    per_class: int = 160
    width: int = 512
    queries_per_class: int = 10
    fitted: int = 2  # pictures for which the plain p-value is taken


def rows(options: Options, sizes: Sizes | None = None) -> Iterator[Row]:
    """Exact neighbours, LOF scores against scikit-learn's, and p-values."""
    sizes = sizes or Sizes()
    known = clip_like(sizes.classes, sizes.per_class, sizes.width, options.seed).unit()
    asked = clip_like(sizes.classes, sizes.queries_per_class, sizes.width, options.seed, "queries").unit()
    scores: dict[str, FloatArray] = {}

    def side(name: str, detector: Any) -> Side:
        def work(watch: Watch) -> None:
            with watch(FIT):
                detector.fit(known)
            with watch(SCORE):
                scores[name] = detector.score_samples(asked)

        return Side(work)

    sides = {"naive": side("naive", _scikit_learn()), "ours": side("ours", LOFDetector(n_neighbors=NEIGHBOURS))}
    times = interleave(sides, options.repeats, warm_up=False)
    check = Check("scores", float(np.abs(scores["naive"] - scores["ours"]).max()), 1e-5)
    note = (
        f"Plain way: scikit-learn's LocalOutlierFactor(novelty=True, algorithm='brute'), {NEIGHBOURS} neighbours, on "
        "float32; our fit also computes every leave-one-out score."
    )
    shape = f"{len(known):,} x {sizes.width}"
    yield Row(f"LOF fit, {shape}", "fit", times["ours"][FIT], times["naive"][FIT], 2, (check,), note)
    scored, plain = (times[name][SCORE].scaled(1 / len(asked)) for name in ("ours", "naive"))
    yield Row(f"LOF scores against {shape}", "picture", scored, plain, None, (), note)
    yield _p_values(options, sizes, known, asked)


class _FittedEachTime(KNNDetector):
    """The same detector, of which the library does not know that it needs no fit."""


def _p_values(options: Options, sizes: Sizes, known: FloatArray, asked: FloatArray) -> Row:
    """Full conformal p-values: a fit for each picture, against what a picture changes."""
    found: dict[str, FloatArray] = {}
    few = {"naive": asked[: sizes.fitted], "ours": asked}

    def side(name: str, make: type[KNNDetector]) -> Side:
        calibrated = Calibrated(make).fit(known)

        def work(watch: Watch) -> None:
            with watch(SCORE):
                found[name] = calibrated.p_values(few[name])

        return Side(work)

    sides = {"naive": side("naive", _FittedEachTime), "ours": side("ours", KNNDetector)}
    times = interleave(sides, options.repeats, warm_up=False)
    ours, plain = (times[name][SCORE].scaled(1 / len(few[name])) for name in ("ours", "naive"))
    check = Check("p-values", float(np.abs(found["naive"] - found["ours"][: sizes.fitted]).max()), 1e-12)
    note = f"Plain way: a fit of the detector for each picture, {sizes.fitted} pictures."
    return Row(f"p-values among {len(known):,} x {known.shape[1]}", "picture", ours, plain, None, (check,), note)


def _scikit_learn() -> Any:
    from sklearn.neighbors import LocalOutlierFactor

    return LocalOutlierFactor(n_neighbors=NEIGHBOURS, novelty=True, algorithm="brute")
