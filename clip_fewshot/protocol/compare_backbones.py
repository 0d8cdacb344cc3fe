"""Which frozen features suit a set of pictures: what the pictures are like, and a linear probe on each encoder."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import check_name, load_backbone
from clip_fewshot.backbones.download import OFFICIAL
from clip_fewshot.data.builtin import raw_pixels
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import number
from clip_fewshot.data.sampling import draw_support, split_open_world
from clip_fewshot.errors import ClipFewShotError
from clip_fewshot.evaluation.metrics import macro_f1
from clip_fewshot.evaluation.reliability import score_probabilities
from clip_fewshot.features.encode import encode_images
from clip_fewshot.probes.logistic import LinearProbe
from clip_fewshot.report import tables
from clip_fewshot.report.grid import GridCell, picture_grid
from clip_fewshot.report.headline import FIGURES
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray

Features = Callable[[ImageDataset], FloatArray]

PICTURES_MEASURED = 300  # pictures whose size is looked up
SHOWN_PER_CLASS = 6
ALL_MODELS, PIXELS = "all", "raw pixels"
HEAD = ("features", "accuracy", "macro-F1", *FIGURES.values(), "n", "seconds", "C")
LIKE = ("", "0.000 [0.000, 0.000]", "0.000", *3 * ("0.000",), "00,000", "00000.0", "")  # how wide such cells are


@dataclass(frozen=True)
class ProbeMaterial:
    """Training sets, the test set they share, and what the split has to say."""

    supports: Sequence[ImageDataset]
    test: ImageDataset
    warnings: Sequence[str]


def draw_material(
    data: ImageDataset, *, shots: int | None, seeds: int, seed: int, test_fraction: float
) -> ProbeMaterial:
    """Seal the test side, draw the training sets, and open the test side for the one comparison.

    Args:
        shots: training pictures per class; None for all of them, in one training set.
    """
    split = split_open_world(data, shots=shots or 1, seed=seed, test_fraction=test_fraction)
    supports = [split.pool]
    if shots is not None:
        supports = [draw_support(split.pool, shots, each) for each in range(seed, seed + seeds)]
    return ProbeMaterial(supports, split.test.open("comparison of frozen models"), split.warnings)


def list_models(names: Sequence[str]) -> tuple[str, ...]:
    """The models to compare, each once; "all" stands for OpenAI's nine.

    Raises:
        UsageError: a name that leads nowhere.
    """
    spread = [one for name in names for one in (OFFICIAL if name == ALL_MODELS else [name])]
    return tuple(dict.fromkeys(map(check_name, spread)))


def try_backbone(name: str, device: str) -> Backbone | ClipFewShotError:
    """The backbone, or why it cannot be had: what others of a list have measured is not lost by it."""
    try:
        return load_backbone(name, device=device)
    except ClipFewShotError as error:
        return error


def compare_models(
    names: Sequence[str], material: ProbeMaterial, *, C: float | None, seed: int, device: str
) -> Iterator[dict[str, Any]]:
    """The same probe on raw pixels and on each model, one after the other; ``error`` of a model that cannot be had."""
    yield measure_features(PIXELS, raw_pixels, material, C=C, seed=seed)
    for name in names:
        found = try_backbone(name, device)
        if isinstance(found, ClipFewShotError):
            yield {"model": name, "error": found.got, "notes": [str(found)]}
        else:
            yield measure_features(name, frozen_features(found), material, C=C, seed=seed)


def frozen_features(backbone: Backbone) -> Features:
    """Pictures -> (n, d) features of the untuned image tower."""
    return lambda pictures: encode_images(backbone, pictures).features


def measure_features(
    name: str, features: Features, material: ProbeMaterial, *, C: float | None, seed: int
) -> dict[str, Any]:
    """Accuracy and calibration of the probe on these features, over the training sets.

    Args:
        C: inverse regularisation; None to search it by cross-validation on the training pictures.
    """
    began = time.perf_counter()
    X_test, truth = features(material.test), material.test.required_labels()
    probes = [
        LinearProbe(C=C, seed=seed).fit(features(support), support.required_labels()) for support in material.supports
    ]
    probabilities = [probe.predict_proba(X_test) for probe in probes]
    scores = score_probabilities(truth, probabilities)
    return {
        "model": name,
        **{key: result.to_json() for key, result in scores._asdict().items()},
        "macro_f1": sum(macro_f1(truth, table.argmax(axis=1)) for table in probabilities) / len(probabilities),
        "C": [probe.C_ for probe in probes],
        "gradient_norm": max(probe.gradient_norm_ for probe in probes),
        "notes": sorted({probe.note_ for probe in probes if probe.note_}),
        "seconds": round(time.perf_counter() - began, 2),
    }


def measure_columns(names: Sequence[str]) -> list[int]:
    """How wide the columns are, before any row is known."""
    return tables.measure_columns([HEAD, *((name, *LIKE[1:]) for name in (PIXELS, *names))])


def describe_head(widths: Sequence[int]) -> str:
    """The line above all others."""
    return tables.format_row(HEAD, widths)


def describe_features(entry: dict[str, Any], widths: Sequence[int]) -> str:
    """The line of one model."""
    if "error" in entry:
        return tables.format_row([entry["model"], f"not to be had: {entry['error']}"], widths)
    cells = [
        entry["model"],
        tables.estimate_of(entry["accuracy"]),
        tables.format_fraction(entry["macro_f1"]),
        *(tables.format_fraction(entry[key]["mean"]) for key in FIGURES),
        f"{entry['accuracy']['n_test']:,}",
        f"{entry['seconds']:.1f}",
        " ".join(f"{C:.3g}" for C in sorted(set(entry["C"]))),
    ]
    return tables.format_row(cells, widths)


def look_at_data(data: ImageDataset, seed: int) -> dict[str, Any]:
    """Counts per class, sizes in pixels, and what could not be read."""
    rows = generator(seed, "look").permutation(len(data))[:PICTURES_MEASURED]
    sizes = sorted((data.open(int(i)).size for i in rows), key=lambda size: (size[0] * size[1], size))
    return {
        "name": data.name,
        "images": len(data),
        "classes": data.counts(),
        "sizes": {"measured": len(sizes), "least": sizes[0], "median": sizes[len(sizes) // 2], "greatest": sizes[-1]},
        "partition": dict(sorted(Counter(data.partition).items())),
        "skipped": dict(sorted(Counter(skipped.reason for skipped in data.skipped).items())),
    }


def describe_data(seen: dict[str, Any]) -> str:
    """The same in words."""
    sizes, counts = seen["sizes"], seen["classes"]
    least, median, greatest = (f"{width} x {height}" for width, height in list(sizes.values())[1:])
    extent = least if least == greatest else f"{least} to {greatest}, median {median}"
    rows = [[name, str(count)] for name, count in counts.items()]
    parts = [f"{n:,} skipped: {reason}" for reason, n in seen["skipped"].items()]
    parts += [f"{n:,} of the source's {part} part" for part, n in seen["partition"].items() if part]
    pictures, classes = number(seen["images"], "picture"), number(len(counts), "class", "classes")
    first = f"{seen['name']}: {pictures} of {classes}, {extent} pixels"
    return "\n".join(["; ".join([first, *parts]), tables.format_plain([["class", "pictures"], *rows])])


def draw_sample(data: ImageDataset, seed: int) -> str:
    """Pictures of each class, drawn by seed, a row per class: SVG."""
    shown = min(SHOWN_PER_CLASS, *data.counts().values())
    drawn = draw_support(data, shown, seed)
    labels = drawn.required_labels()
    order = sorted(range(len(drawn)), key=lambda i: int(labels[i]))
    names = drawn.label_space.decode(labels)
    return picture_grid([GridCell(drawn.open(i), (names[i],)) for i in order], columns=shown)
