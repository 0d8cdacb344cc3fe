"""Is another camera told from new classes? `python -m experiments.shift digits-wild`: level, power and mistakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.commands.cli import opening
from clip_fewshot.commands.cli.run import run
from clip_fewshot.commands.cli.shared_options import PicturesOptions, seed_option, seeds_option, shot_counts_option
from clip_fewshot.config import check_range, option
from clip_fewshot.conformal.shift import SHIFT, UNMOVED, find_shift
from clip_fewshot.data.collect import collect_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.features.encode import encode_images
from clip_fewshot.report import tables
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray

PROG = "python -m experiments.shift"
DESCRIPTION = (
    "Share of batches that are called a shift. Of the classes 30 % are hidden; a batch is of fresh known pictures, of "
    "the same in other proportions, of copies as another camera would make them, or has pictures of hidden classes."
)
SHOTS = (4, 8, 16)
ENLARGED_SIDE = 64  # pixels
HIDDEN_SHARE, MIXED = 0.3, (0.3, 0.5, 0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class Options(PicturesOptions):
    """Of the measurement."""

    shot_counts: tuple[int, ...] = shot_counts_option(SHOTS)
    batch: int = option(100, "pictures of a batch")
    seeds: int = seeds_option()
    seed: int = seed_option()

    def __post_init__(self) -> None:
        check_range(self, "shot_counts", "batch", "seeds")


def enlarge(picture: Image.Image) -> Image.Image:
    """No smaller than a filter needs."""
    scale = ENLARGED_SIDE / max(picture.size)
    size = round(picture.width * scale), round(picture.height * scale)
    return picture.resize(size, Image.Resampling.BICUBIC) if scale > 1 else picture


def sketch(picture: Image.Image) -> Image.Image:
    """A drawing in pencil: grey, divided by its blurred negative."""
    grey = np.asarray(picture.convert("L").filter(ImageFilter.GaussianBlur(1)), float)
    negative = Image.fromarray((255 - grey).astype(np.uint8)).filter(ImageFilter.GaussianBlur(max(picture.size) / 24))
    lines = grey * 255 / np.maximum(255 - np.asarray(negative, float), 1)
    return Image.fromarray(np.clip(lines, 0, 255).astype(np.uint8)).convert("RGB")


CAMERAS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "blur": lambda picture: picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 64)),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
    "sketch": sketch,
}


def main(options: Options) -> int:
    """Measure and print."""
    data, backbone = opening.open_data(options.data, **options.reading()), load_backbone(options.model_name)
    pictures = [enlarge(data.open(i).convert("RGB")) for i in range(len(data))]
    copies = {name: collect_images([make(one) for one in pictures]) for name, make in CAMERAS.items()}
    seen = {name: encode_images(backbone, images).features for name, images in ({"known": data} | copies).items()}
    found = dict[str, list[str]]()
    for shots in options.shot_counts or SHOTS:
        for seed in range(options.seed, options.seed + options.seeds):
            for kind, verdict in judge(data, seen, shots, options.batch, seed).items():
                found.setdefault(kind, []).append(verdict)
    rows = [{"batch": kind, **count(verdicts)} for kind, verdicts in found.items()]
    about = {"schema": 1, "data": options.data, "model": options.model_name, "pictures": options.batch}
    print(json.dumps(about | {"rows": rows}, indent=1) if options.json else describe(rows))
    return 0


def judge(data: ImageDataset, seen: Mapping[str, FloatArray], shots: int, batch: int, seed: int) -> dict[str, str]:
    """The verdict on a batch of each kind, of one support set."""
    random, y = generator(seed, "shift", shots), data.required_labels()
    order = random.permutation(y.max() + 1)
    hidden = order[: max(2, round(HIDDEN_SHARE * len(order)))]
    fit, fresh = list[int](), list[int]()
    for label in order[len(hidden) :]:
        rows = random.permutation(np.flatnonzero(y == label)).tolist()
        fit, fresh = fit + rows[:shots], fresh + rows[shots:]
    share = random.dirichlet(np.full(len(order), 0.5))[y[fresh]]
    known = random.permutation(fresh)[:batch]
    uneven = random.choice(fresh, min(batch, len(fresh) // 2), replace=False, p=(share + 1e-9) / (share + 1e-9).sum())
    new = random.permutation(np.flatnonzero(np.isin(y, hidden)))[:batch]
    batches = {"known": seen["known"][known], "known, other proportions": seen["known"][uneven]}
    batches |= {name: seen[name][known] for name in CAMERAS}
    for part in MIXED:
        rows = [*known[: batch - round(part * batch)], *new[: round(part * batch)]]
        batches[f"{100 * part:.0f} % new"] = seen["known"][rows]
    return {kind: find_shift(seen["known"][fit], y[fit], rows, seed).verdict() for kind, rows in batches.items()}


def count(verdicts: list[str]) -> dict[str, Any]:
    """Shares."""
    n = len(verdicts)
    return {"shift": verdicts.count(SHIFT) / n, "named": 1 - verdicts.count(UNMOVED) / n, "batches": n}


def describe(rows: list[dict[str, Any]]) -> str:
    """A line for each kind of batch."""
    head = ["batch of", 'called "shift"', '"shift", or "shift or new"', "batches"]
    lines = [
        [row["batch"], tables.format_fraction(row["shift"]), tables.format_fraction(row["named"]), str(row["batches"])]
        for row in rows
    ]
    return tables.format_markdown([head, *lines])


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
