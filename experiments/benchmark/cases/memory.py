"""The most memory that a search holds: in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clip_fewshot.data.read import read_dataset
from clip_fewshot.few_shot.approach import MLP
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.protocol.refits import Task, prepare
from experiments.benchmark.cases.study import workbench
from experiments.benchmark.isolation import alone
from experiments.benchmark.options import Options
from experiments.benchmark.plain import random_backbone
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import picture_folder

LIMIT = 3.0  # GiB


@dataclass(frozen=True)
class Sizes:
    """Cuts before each of the last ``cuts`` blocks are stored; the deepest is trained for an epoch on one fold."""

    classes: int = 100
    shots: int = 16
    cuts: int = 5


def rows(options: Options, sizes: Sizes | None = None) -> Iterator[Row]:
    """The peak of a run over more pictures than memory holds."""
    sizes = sizes or Sizes()
    arch = options.arch or "ViT-B/32"
    with picture_folder(sizes.classes, sizes.shots, options.seed) as folder:
        found = alone(options.n_threads, search, arch, folder, sizes, options.seed)
    check = Check("peak memory", found.peak_gib, LIMIT, "GiB")
    note = "Decoding, the pass through the frozen layers, and one epoch of one trial at the deepest cut, once."
    n = sizes.classes * sizes.shots
    yield Row(f"{arch}, {n:,} pictures, {sizes.cuts} cuts", "run", found.times, checks=(check,), note=note)


def search(arch: str, folder: Path, sizes: Sizes, seed: int) -> None:
    """The pass over all pictures, and the trial that holds most."""
    settings = TrainSettings(epochs=1, min_steps=1)
    task = Task(random_backbone(arch, seed), read_dataset(folder), sizes.shots, settings, views=1, seed=seed)
    prepared = prepare(task, task.support(0), range(sizes.cuts + 1))
    workbench(task, prepared).score(MLP.at({"unfreeze": sizes.cuts}), 0)
