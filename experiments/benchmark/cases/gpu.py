"""A GPU: where the time of a large search goes, what share of its peak is used, and half precision that lasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pixels import pixel_batches
from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DivergedError
from clip_fewshot.features.prefix import run_prefix
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.search.space import SearchSpace
from clip_fewshot.few_shot.search.study import StudyPlan, run_study
from clip_fewshot.few_shot.select import TrialRecord
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.protocol.refits import PreparedSupport, Task, prepare
from clip_fewshot.tuning.last_layers import copy_last_layers
from experiments.benchmark.cases.study import APPROACHES, workbench
from experiments.benchmark.options import Options
from experiments.benchmark.plain import random_backbone
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import picture_folder
from experiments.benchmark.timing import Spent, Times, now

ARCHITECTURES = (
    "RN50",
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-B/32",
    "ViT-B/16",
    "ViT-L/14",
    "ViT-L/14@336px",
)
AIM = 120.0  # seconds for all of it


@dataclass(frozen=True)
class Sizes:
    """``gemm``: side of the matrices whose product measures the device's peak. ``steps``: of each architecture."""

    classes: int = 1000
    shots: int = 16
    trials: int = 50
    epochs: int = 20
    max_unfreeze: int = 4
    gemm: int = 8192
    steps: int = 1000
    architectures: tuple[str, ...] = ARCHITECTURES
    precisions: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)


def missing() -> str:
    """What the case needs and does not find."""
    return "" if torch.cuda.is_available() else "a CUDA device"


def rows(options: Options, sizes: Sizes | None = None, device: str = "cuda") -> Iterator[Row]:
    """Training and embedding on a GPU, beside the processor's results."""
    sizes = sizes or Sizes()
    yield from search(options, sizes, device)
    with picture_folder(4, 5, options.seed) as folder:
        pictures = read_dataset(folder)
        for arch in sizes.architectures:
            yield from stays_finite(arch, pictures, sizes, device)


def search(options: Options, sizes: Sizes, device: str) -> Iterator[Row]:
    """Decoding, the pass through the frozen layers, and the trials, each with the share of the peak that it reached."""
    arch = options.arch or "ViT-B/32"
    backbone = random_backbone(arch, options.seed).to(device)
    peak = product_rate(sizes.gemm, device)
    what = f"{arch}, {sizes.classes} x {sizes.shots} on {name_of(device)}"
    note = (
        f"Measured once; the peak is what a product of two {sizes.gemm} x {sizes.gemm} bfloat16 matrices reaches here: "
        f"{peak / 1e12:.0f} TFLOP/s."
    )
    with picture_folder(sizes.classes, sizes.shots, options.seed) as folder, TemporaryDirectory() as trials:
        pool = read_dataset(folder)
        settings = TrainSettings(epochs=sizes.epochs)
        task = Task(backbone, pool, sizes.shots, settings, views=1, seed=options.seed)
        images, depths = task.support(0), range(sizes.max_unfreeze + 1)
        with Clock(device) as decoding:
            for _ in pixel_batches(images, backbone.image_size):
                pass
        yield Row(f"{what}: decoding", "search", decoding.times, note=note)
        with Clock(device) as forward:
            prepared = prepare(task, images, depths)
        work = forward_flops(backbone) * len(images)
        yield Row(f"{what}: frozen layers", "search", forward.times, checks=(share(work, forward, peak),), note=note)
        with Clock(device) as training:
            plan = StudyPlan(sizes.trials, len(task.folds(prepared.data.labels)), options.seed, Path(trials))
            space = SearchSpace(APPROACHES, sizes.max_unfreeze)
            records = run_study(space, workbench(task, prepared).score, plan)
        work = training_flops(backbone, task, prepared, records)
        yield Row(
            f"{what}: {sizes.trials} trials", "search", training.times, checks=(share(work, training, peak),), note=note
        )
    seconds = sum(clock.spent.wall for clock in (decoding, forward, training))
    yield Row(f"{what}: all of it", "search", checks=(Check("seconds", seconds, AIM),), note=note)


class Clock:
    """Times a block, the work that it gave to the device included."""

    def __init__(self, device: str) -> None:
        self.device, self.spent = device, Spent(0.0, 0.0)

    def __enter__(self) -> Clock:
        self.began = self._now()
        return self

    def __exit__(self, *exception: object) -> None:
        self.spent = self._now() - self.began

    @property
    def times(self) -> Times:
        """The time between the events, as one repeat."""
        return Times((self.spent,))

    def _now(self) -> Spent:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return now()


def share(flops: float, clock: Clock, peak: float) -> Check:
    """The part of the peak that so much work in that time is."""
    return Check("share of the peak", flops / clock.spent.wall / peak)


def product_rate(side: int, device: str, repeats: int = 20) -> float:
    """FLOP/s of a large matrix product in bfloat16."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    a @ b  # the first one chooses a kernel
    with Clock(device) as clock:
        for _ in range(repeats):
            a @ b
    return 2 * side**3 * repeats / clock.spent.wall


def forward_flops(backbone: Backbone) -> float:
    """Of one picture, counted on the CPU."""
    from torch.utils.flop_counter import FlopCounterMode

    visual, side = backbone.visual, backbone.image_size
    pixels = torch.zeros(1, 3, side, side, device=backbone.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        visual(pixels)
    return float(counter.get_total_flops())


def training_flops(backbone: Backbone, task: Task, prepared: PreparedSupport, records: Sequence[TrialRecord]) -> float:
    """Of all steps of a search; heads and validation are not counted."""
    trained = [len(train) for train, _ in task.folds(prepared.data.labels)]
    pictures = [task.settings.steps(n) * task.settings.batch_size(n) for n in trained]
    total = 0.0
    for record in records:
        if record.point.unfreeze:
            total += step_flops(backbone, record.point.unfreeze) * sum(pictures[: len(record.fold_values)])
    return total


def step_flops(backbone: Backbone, unfreeze: int) -> float:
    """Forward and backward of one picture behind its cut."""
    from torch.utils.flop_counter import FlopCounterMode

    suffix = copy_last_layers(backbone.visual, unfreeze)
    pixels = torch.zeros(1, 3, backbone.image_size, backbone.image_size, device=backbone.device)
    prefix = run_prefix(backbone.visual, [pixels], [unfreeze])
    with FlopCounterMode(display=False) as counter:
        suffix(prefix.rows(unfreeze, torch.zeros(1, dtype=torch.int64))).sum().backward()
    return float(counter.get_total_flops())


def stays_finite(arch: str, pictures: ImageDataset, sizes: Sizes, device: str) -> Iterator[Row]:
    """Many steps of the last layer in each half precision."""
    for precision in sizes.precisions:
        backbone = random_backbone(arch, 0).to(device)
        backbone.activation_dtype = precision
        classifier = FewShotClassifier(backbone, "mlp-arcface", unfreeze=1, epochs=sizes.steps)
        broken = ""
        with Clock(device) as clock:
            try:
                classifier.fit(pictures)
            except DivergedError as error:
                broken = str(error)
        what = f"{arch}, {sizes.steps:,} steps in {str(precision).removeprefix('torch.')}"
        check = Check("trainings that did not stay finite", float(bool(broken)), 0.0)
        yield Row(what, "training", clock.times, checks=(check,), note=broken)


def name_of(device: str) -> str:
    """The name of the device as the page shows it."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
