"""A made-up run to draw: real shapes and plausible figures, nothing measured."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.cluster.hierarchy import linkage

from clip_fewshot.evaluation.reliability import ReliabilityBins
from clip_fewshot.plots.det import equal_error_rate
from clip_fewshot.plots.views import EmbeddingView, NoveltyView, ShotPoint, TrialRow
from clip_fewshot.report.record import ClusterView, DiscoveryView, PredictionExample, RunRecord

NAMES = ("zero", "one", "two", "three", "four", "five", "six")
UNSEEN = ("seven", "eight", "nine")
APPROACHES = ("mlp-arcface", "mlp", "contrastive-arcface", "contrastive")


def measured(view: NoveltyView) -> dict[str, Any]:
    """The figures that belong to the drawn scores, so that points lie on their curves."""
    return {
        "detector": "lof",
        "alpha": 0.05,
        "auroc": float((view.known_scores[:, None] > view.novel_scores).mean()),
        "eer": equal_error_rate(view),
        "fpr95": 0.041,
        "false_alarm_rate": float((view.known_scores < view.threshold).mean()),
        "detection_rate": float((view.novel_scores < view.threshold).mean()),
    }


def accuracy(mean: float, half: float = 0.02, n: int = 503) -> dict[str, Any]:
    per_seed = [mean + half * step for step in (-0.6, -0.2, 0.0, 0.3, 0.5)]
    return {"mean": mean, "ci95": [mean - half, min(mean + half, 1.0)], "per_seed": per_seed, "n_test": n}


def probabilities(loss: float) -> dict[str, Any]:
    """What stands beside an accuracy whose probabilities are known."""
    return {"nll": accuracy(loss), "brier": accuracy(loss / 2), "ece": accuracy(loss / 9, 0.01)}


def reliability() -> dict[str, ReliabilityBins]:
    confidence, size = np.linspace(0.3, 0.97, 8), np.full(8, 60)
    shapes = {"zero_shot": 1.2, "linear_probe": 0.8, "mlp-arcface": 1.0}
    return {name: ReliabilityBins(confidence, confidence**power, size) for name, power in shapes.items()}


def results(**changes: Any) -> dict[str, Any]:
    """A whole results dict of schema 1; top-level keys can be replaced."""
    params = {"unfreeze": 2, "backbone_lr": 3.2e-5, "head_lr": 1e-3, "margin": 0.3, "scale": 24.0}
    tests = {"mlp-arcface": 0.952, "mlp": 0.949, "contrastive-arcface": 0.946, "contrastive": 0.943}
    whole = {
        "schema": 1,
        "dataset": {
            "name": "digits",
            "classes": list(NAMES),
            "unseen": list(UNSEEN),
            "counts": {"pool": 629, "support": 112, "test": 628, "novel": 540},
            "fingerprint": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
        "config": {
            "data": "digits",
            "model": "mini",
            "shots": 16,
            "unseen": 3,
            "alpha": 0.05,
            "trials": 50,
            "device": "cpu",
        },
        "environment": {"python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6", "platform": "Linux", "threads": 2},
        "seeds": [0, 1, 2, 3, 4],
        "raw_pixels": accuracy(0.938, 0.018),
        "zero_shot": accuracy(0.794, 0.031) | {"macro_f1": 0.781},
        "linear_probe": accuracy(0.929, 0.021) | {"macro_f1": 0.928, "params": {"C": 12.6}} | probabilities(0.21),
        "approaches": {
            name: {"params": params, "validation": value - 0.01, "test": accuracy(value), "macro_f1": value - 0.002}
            for name, value in tests.items()
        },
        "best": {
            "approach": "mlp-arcface",
            "params": params,
            "validation": 0.942,
            "test": accuracy(0.952) | probabilities(0.18),
            "macro_f1": 0.951,
            "difference_to_probe": accuracy(0.023, 0.014),
        },
        "novelty": measured(novelty())
        | {
            "chosen": "knn, frozen features, k = 5",
            "margin": -0.004,
            "selection": {"knn, frozen features, k = 5": 0.981, "energy, tuned features": 0.985, "lof, k = 2": 0.93},
            "selection_far": {"knn, frozen features, k = 5": 0.97, "energy, tuned features": 0.5, "lof, k = 2": 0.9},
        },
        "discovery": {"n_clusters": 3, "n_unseen": 3, "ari": 0.742, "nmi": 0.711, "accuracy": 0.884},
        "search": {
            "finished": 41,
            "pruned": 8,
            "failed": 1,
            "seconds": 96.4,
            "naive_seconds_estimate": 1840.0,
            "test_looks": 1,
        },
        "timing": {"features": 11.2, "search": 96.4, "refit": 31.0, "novelty": 2.4, "report": 3.1},
        "artifacts": {"model/manifest.json": "ab" * 32},
        "warnings": ["The probe's C of fold 3 lies at the edge of its range (1e+06): a wider range may do better."],
    }
    return whole | changes


def glyph(text: str, seed: int = 0, side: int = 64) -> Image.Image:
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (side, side), tuple(int(v) for v in rng.integers(0, 60, 3)))
    place = tuple(int(v) for v in rng.integers(8, 24, 2))
    ImageDraw.Draw(picture).text(place, text, fill=(240, 240, 240), font_size=36)
    return picture


def confusion(c: int, seed: int = 0) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.poisson(0.5, (c, c)) + np.diag(rng.integers(70, 90, c)), dtype=np.int64)


def history(n: int = 50, seed: int = 0) -> tuple[TrialRow, ...]:
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        state = "failed" if number == 31 else "pruned" if number % 6 == 5 else "finished"
        value = (
            None
            if state == "failed"
            else 0.93 - 0.12 * rng.random() ** 2 + 0.0004 * number - 0.05 * (state == "pruned")
        )
        approach = "linear_probe" if number == 0 else APPROACHES[int(rng.integers(4))]
        params = {"unfreeze": int(rng.integers(1, 6)), "head_lr": float(10 ** rng.uniform(-4, -2))}
        row: TrialRow = {
            "number": number,
            "approach": approach,
            "state": state,
            "value": value,
            "params": params,
            "seconds": float(rng.uniform(0.4, 3)),
        }
        rows.append(row)
    return tuple(rows)


def embedding(title: str = "frozen", names: tuple[str, ...] = NAMES, n: int = 300, seed: int = 0) -> EmbeddingView:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(names), 32))
    labels = rng.integers(0, len(names), n)
    images = centres[labels] + 0.45 * rng.normal(size=(n, 32)) + 1.0
    return EmbeddingView(title, images, labels, 0.8 * centres - 0.6, names)


def novelty(seed: int = 0) -> NoveltyView:
    rng = np.random.default_rng(seed)
    known, novel = -1.05 - rng.gamma(2, 0.05, 628), -1.2 - rng.gamma(3, 0.16, 540)
    cuts = np.sort(np.concatenate([known, novel]))
    alarms = np.array([(known < cut).mean() for cut in cuts])
    misses = np.array([(novel >= cut).mean() for cut in cuts])
    return NoveltyView(known, novel, float(np.quantile(known, 0.05)), alarms, misses)


def discovery(sizes: tuple[int, ...] = (64, 41, 22), outliers: int = 0, seed: int = 0) -> DiscoveryView:
    """Groups far apart, numbered from the first; the outliers are a heap of their own."""
    rng = np.random.default_rng(seed)
    heaps = [rng.normal(6 * i, 1.0, (size, 8)) for i, size in enumerate(sizes)]
    points = np.concatenate([*heaps, rng.normal(-12, 1.0, (outliers, 8))])
    tree = linkage(points, "ward") if len(points) > 1 else np.zeros((0, 4))
    labels = np.repeat([*range(len(sizes)), -1], [*sizes, outliers]).astype(np.int64)
    clusters = []
    for number, size in enumerate(sizes):
        name, digit = UNSEEN[number % 3], str(7 + number % 3)
        shown = tuple(glyph(digit, seed=i) for i in range(min(size - 1, 30)))
        mixed = ((name, size),) if size < 10 else ((name, size - 3), ("one", 3))
        clusters.append(ClusterView(number, size, glyph(digit), shown, name, mixed))
    return DiscoveryView(tree, labels, tuple(clusters))


def predictions() -> tuple[PredictionExample, ...]:
    examples = []
    for i in range(12):
        digit = i % 10
        name = (*NAMES, *UNSEEN)[digit]
        guess = NAMES[digit] if digit < 7 and i != 3 else NAMES[(digit + 2) % 7]
        others = [other for other in NAMES if other != guess][:2]
        top = ((guess, 0.86), (others[0], 0.09), (others[1], 0.02))
        unknown = digit in (7, 8)
        votes = () if digit > 6 else (("five", 3), ("three", 2)) if i == 3 else ((guess, 5),)
        p_value, file = 0.009 if unknown else 0.63, f"holiday/{i:02d} {name}.jpg"
        examples.append(PredictionExample(glyph(str(digit), i), name, top, unknown, p_value, None, file, votes))
    return tuple(examples)


def shots() -> dict[str, tuple[ShotPoint, ...]]:
    grid = (1, 2, 4, 8, 16)
    curves = {"raw_pixels": 0.62, "zero_shot": 0.79, "linear_probe": 0.78} | dict.fromkeys(APPROACHES, 0.76)
    slope = {"raw_pixels": 0.08, "zero_shot": 0.0}
    return {
        name: tuple(
            ShotPoint(k, m := min(start + slope.get(name, 0.045) * i, 0.97), m - 0.05 / (i + 1), m + 0.05 / (i + 1))
            for i, k in enumerate(grid)
        )
        for name, start in curves.items()
    }


def record(**changes: Any) -> RunRecord:
    """A whole record that fits :func:`results`; fields can be replaced."""
    fields: dict[str, Any] = {
        "command": "python -m experiments.few_shot --trials 50 --unseen 3 --seeds 5",
        "class_names": NAMES,
        "confusion": confusion(len(NAMES)),
        "history": history(),
        "predictions": predictions(),
        "embeddings": (embedding("frozen"), embedding("after tuning", seed=1)),
        "novelty": novelty(),
        "discovery": discovery(outliers=9),
        "reliability": reliability(),
        "shots": shots(),
    }
    return RunRecord(**(fields | changes))


def bare(**fields: Any) -> RunRecord:
    """A record of nothing but the given fields: quick to draw."""
    return RunRecord(**({"command": "python -m experiments.few_shot", "class_names": NAMES} | fields))


SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def hostile() -> tuple[dict[str, Any], RunRecord]:
    """A run whose every name wants to break out."""
    names = (SCRIPT, "../../x", "\u202egpj.exe\x1b[2J", "{{ 7 * 7 }}", "$\\frac{", "\udcff\x00", "&lt;b&gt;")
    run = results()
    run["dataset"] |= {"name": SCRIPT, "classes": list(names), "unseen": [SCRIPT], "counts": {SCRIPT: 1}}
    run["config"] = {SCRIPT: SCRIPT, "nested": {"a": [SCRIPT]}}
    run["environment"] = {"device": SCRIPT}
    run["artifacts"] = {SCRIPT: SCRIPT}
    run["timing"] = {SCRIPT: 1.0}
    run["warnings"] = [SCRIPT]
    run["novelty"] |= {"detector": SCRIPT, "chosen": SCRIPT, "selection": {SCRIPT: 0.5}, "selection_far": {SCRIPT: 0.9}}
    run["approaches"][SCRIPT] = run["approaches"]["mlp"] | {"params": {SCRIPT: SCRIPT}}
    seen = discovery()
    groups = tuple(c._replace(suggested=SCRIPT, composition=((SCRIPT, 3),)) for c in seen.clusters)
    shown = record(
        command=SCRIPT,
        class_names=names,
        history=tuple(row | {"approach": SCRIPT, "params": {SCRIPT: SCRIPT}} for row in history(6)),
        predictions=(
            PredictionExample(glyph("x"), SCRIPT, ((SCRIPT, 0.9),), True, 0.01, (SCRIPT,), SCRIPT, ((SCRIPT, 3),)),
        ),
        embeddings=(embedding(SCRIPT, names),),
        discovery=type(seen)(seen.linkage, seen.labels, groups),
        shots={SCRIPT: shots()["mlp"]},
    )
    return run, shown
