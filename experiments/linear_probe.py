"""Which frozen CLIP suits these pictures: `python -m experiments.linear_probe photos/ --models ViT-B/32,RN50`."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import clip_fewshot as cf
from clip_fewshot.config import DataOptions
from experiments import opening, tables
from experiments.options import run

if TYPE_CHECKING:
    Features = Callable[[cf.ImageDataset], cf.FloatArray]

DESCRIPTION = (
    "Look at a set of pictures, then compare CLIP models by a logistic regression on their frozen features, "
    "with the same regression on raw pixels beside them."
)
PIXELS = "raw pixels"
MEASURED = 300  # pictures whose size is looked up
SHOWN_PER_CLASS = 6


@dataclass(frozen=True)
class Options:
    data: str = cf.option("digits", "folder, list file or CSV of pictures; or digits, digits-wild", positional=True)
    models: tuple[str, ...] = cf.option((), "models to compare (default: ViT-B/32; mini for digits)")
    shots: int | Literal["all"] = cf.option(16, "training pictures per class, or all")
    tune: bool = cf.option(False, "search C in 1e-6..1e6 by cross-validation on the training pictures")
    C: float = cf.option(1.0, "inverse regularisation without --tune")
    seeds: int = cf.option(5, "training sets drawn; one with --shots all")
    test_fraction: float = cf.option(0.5, "share of each class sealed as test set where the data has no test part")
    seed: int = cf.option(0, "seed of the split and the draws")
    grid: Path | None = cf.option(None, "write a sample of each class to this .svg file")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    json: bool = cf.option(False, "print JSON")

    def __post_init__(self) -> None:
        for flag, value in (("--seeds", self.seeds), ("--shots", 1 if self.shots == "all" else self.shots)):
            if value < 1:
                raise cf.UsageError(expected="1 or more", got=str(value), fix=f"change {flag}", where=flag)
        if not self.C > 0:
            raise cf.UsageError(expected="a number above 0", got=f"{self.C:g}", fix="change --C", where="--C")


@dataclass(frozen=True)
class Material:
    """Training sets and the test set they share."""

    supports: Sequence[cf.ImageDataset]
    test: cf.ImageDataset


def main(options: Options) -> int:
    data = opening.dataset(options.data)
    seen = look(data, options.seed)
    if not options.json:
        print(look_text(seen), flush=True)
    if options.grid is not None:
        cf.write_text(options.grid, sample(data, options.seed))
    material = draw(data, options)
    names = options.models or (DataOptions(data=options.data).model_name,)
    found = [measure(PIXELS, cf.raw_pixels, material, options)]
    for name in names:
        found.append(measure(name, frozen(cf.load_backbone(name, device=options.device)), material, options))
        opening.warn(f"{name}: {note}" for note in found[-1]["notes"])
    record = {"schema": 1, "data": seen, "shots": options.shots, "tuned": options.tune, "models": found}
    print(json.dumps(record, indent=1) if options.json else "\n" + comparison(found))
    return 0


def look(data: cf.ImageDataset, seed: int) -> dict[str, Any]:
    """Counts per class, sizes in pixels, and what could not be read."""
    rows = cf.generator(seed, "look").permutation(len(data))[:MEASURED]
    sizes = sorted((data.open(int(i)).size for i in rows), key=lambda size: (size[0] * size[1], size))
    return {
        "name": data.name,
        "images": len(data),
        "classes": data.counts(),
        "sizes": {"measured": len(sizes), "least": sizes[0], "median": sizes[len(sizes) // 2], "greatest": sizes[-1]},
        "partition": dict(sorted(Counter(data.partition).items())),
        "skipped": dict(sorted(Counter(skipped.reason for skipped in data.skipped).items())),
    }


def look_text(seen: dict[str, Any]) -> str:
    """The same in words."""
    sizes, counts = seen["sizes"], seen["classes"]
    least, median, greatest = (f"{width} x {height}" for width, height in list(sizes.values())[1:])
    extent = least if least == greatest else f"{least} to {greatest}, median {median}"
    rows = [[name, str(count)] for name, count in counts.items()]
    parts = [f"{n:,} skipped: {reason}" for reason, n in seen["skipped"].items()]
    parts += [f"{n:,} of the source's {part} part" for part, n in seen["partition"].items() if part]
    first = f"{seen['name']}: {seen['images']:,} pictures of {len(counts)} classes, {extent} pixels"
    return "\n".join(["; ".join([first, *parts]), tables.plain([["class", "pictures"], *rows])])


def sample(data: cf.ImageDataset, seed: int) -> str:
    """Pictures of each class, drawn by seed, a row per class: SVG."""
    shown = min(SHOWN_PER_CLASS, *data.counts().values())
    drawn = cf.draw_support(data, shown, seed)
    labels = drawn.required_labels()
    order = sorted(range(len(drawn)), key=lambda i: int(labels[i]))
    names = drawn.label_space.decode(labels)
    return cf.picture_grid([cf.GridCell(drawn.open(i), (names[i],)) for i in order], columns=shown)


def draw(data: cf.ImageDataset, options: Options) -> Material:
    """Seal the test side, draw the training sets, and open the test side for the one comparison."""
    shots = 1 if options.shots == "all" else options.shots
    split = cf.split_open_world(data, shots=shots, seed=options.seed, test_fraction=options.test_fraction)
    opening.warn(split.warnings)
    if options.shots == "all":
        supports = [split.pool]
    else:
        supports = [
            cf.draw_support(split.pool, shots, seed) for seed in range(options.seed, options.seed + options.seeds)
        ]
    return Material(supports, split.test.open("comparison of frozen models"))


def frozen(backbone: cf.Backbone) -> Features:
    """Pictures -> (n, d) features of the untuned image tower."""
    return lambda pictures: cf.encode_images(backbone, pictures).features


def measure(name: str, features: Features, material: Material, options: Options) -> dict[str, Any]:
    """Accuracy of the probe on these features, over the training sets."""
    began = time.perf_counter()
    X_test, truth = features(material.test), material.test.required_labels()
    probes = []
    for support in material.supports:
        probe = cf.LinearProbe(C=None if options.tune else options.C, seed=options.seed)
        probes.append(probe.fit(features(support), support.required_labels()))
    predicted = [probe.predict(X_test) for probe in probes]
    return {
        "model": name,
        "accuracy": cf.interval([labels == truth for labels in predicted]).to_json(),
        "macro_f1": sum(cf.macro_f1(truth, labels) for labels in predicted) / len(predicted),
        "C": [probe.C_ for probe in probes],
        "gradient_norm": max(probe.gradient_norm_ for probe in probes),
        "notes": sorted({probe.note_ for probe in probes if probe.note_}),
        "seconds": round(time.perf_counter() - began, 2),
    }


def comparison(found: Sequence[dict[str, Any]]) -> str:
    """A line per model, the best last."""
    head = ["features", "accuracy", "macro-F1", "C", "n", "seconds"]
    ranked = sorted(found, key=lambda entry: float(entry["accuracy"]["mean"]))
    rows = [
        [
            entry["model"],
            tables.estimate(entry["accuracy"]["mean"], entry["accuracy"]["ci95"]),
            tables.fraction(entry["macro_f1"]),
            " ".join(f"{C:.3g}" for C in sorted(set(entry["C"]))),
            str(entry["accuracy"]["n_test"]),
            f"{entry['seconds']:.1f}",
        ]
        for entry in ranked
    ]
    return tables.plain([head, *rows])


if __name__ == "__main__":
    sys.exit(run(main, Options, "python -m experiments.linear_probe", DESCRIPTION))
