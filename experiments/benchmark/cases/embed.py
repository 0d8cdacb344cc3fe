"""Pictures to features: OpenAI's forward pass, against ours, and against the second time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.read import read_dataset
from clip_fewshot.features.encode import encode_images
from experiments.benchmark.isolation import empty_cache
from experiments.benchmark.options import Options
from experiments.benchmark.plain import Original, original, random_backbone
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import picture_folder
from experiments.benchmark.timing import WHOLE, Side, Watch, interleave

BATCH = 16  # the plain way's: the fastest on CPUs lie between 8 and 32


def rows(options: Options, pictures: int = 32) -> Iterator[Row]:
    """Features of pictures through each architecture, the plain way and ours."""
    arch = options.arch or "ViT-B/32"
    backbone = random_backbone(arch, options.seed)
    with picture_folder(2, pictures // 2, options.seed) as folder:
        yield from measure(backbone, original(backbone), read_dataset(folder), arch, options)


def measure(backbone: Backbone, plain: Original, images: ImageDataset, arch: str, options: Options) -> Iterator[Row]:
    """One architecture: the plain model, ours for the first time, and from the cache."""
    found: dict[str, Tensor] = {}

    def naive(watch: Watch) -> None:
        features = []
        with torch.no_grad():
            for rows in torch.split(torch.arange(len(images)), BATCH):
                pixels = torch.stack([backbone.preprocess(images.open(int(i))) for i in rows])
                features.append(plain.visual(pixels))
        found["naive"] = torch.cat(features)

    def first(watch: Watch) -> None:
        with empty_cache():
            found["the first time"] = torch.from_numpy(encode_images(backbone, images).features)

    def again(watch: Watch) -> None:
        found["again, from the cache"] = torch.from_numpy(encode_images(backbone, images).features)

    work = {"naive": naive, "the first time": first, "again, from the cache": again}
    times = interleave({name: Side(do, len(images)) for name, do in work.items()}, options.repeats)
    note = f"Plain way: {plain.name}; both sides decode the files."
    for name in ("the first time", "again, from the cache"):
        difference = float((found[name] - found["naive"]).abs().max() / found["naive"].abs().max())
        checks = (
            Check("features", difference, 2e-6),
            Check("pictures per second", 1 / times[name][WHOLE].wall),
        )
        yield Row(f"{arch}, {name}", "picture", times[name][WHOLE], times["naive"][WHOLE], None, checks, note)
