"""What a contrastive step of any batch costs in memory: the law, from small steps, and what it foretells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.trainer import train_contrastive
from clip_fewshot.data.pairs.batch import PairBatch
from experiments.benchmark.isolation import Alone, alone
from experiments.benchmark.options import Options
from experiments.benchmark.plain import random_backbone
from experiments.benchmark.row import Check, Row

LIMIT = 16.0  # GiB, the memory of a small GPU
Step = tuple[int, int]  # pairs in the batch, pairs in one pass


@dataclass(frozen=True)
class Sizes:
    """Memory is a + b * batch + c * chunk: three steps give the law, a fourth one tests it, a fifth is foretold.

    Chunks under 16 hold less than the optimiser does afterwards, and say nothing of the law.
    """

    fitted: tuple[Step, Step, Step] = ((32, 16), (96, 16), (64, 48))
    tested: Step = (64, 32)
    foretold: Step = (4096, 32)


def rows(options: Options, sizes: Sizes | None = None) -> Iterator[Row]:
    """Steps of several batches, each in a process of its own; memory and time as lines in the batch."""
    sizes, arch = sizes or Sizes(), options.arch or "ViT-B/32"
    with freeing():
        fitted = {at: alone(options.n_threads, step, arch, *at, options.seed) for at in sizes.fitted}
        found = alone(options.n_threads, step, arch, *sizes.tested, options.seed)
    law = np.linalg.solve([terms(at) for at in fitted], [one.peak_gib for one in fitted.values()])
    for at, measured in (fitted | {sizes.tested: found}).items():
        yield row(arch, at, measured)
    error = abs(float(law @ terms(sizes.tested)) / found.peak_gib - 1)
    batch, chunk = sizes.foretold
    note = (
        f"Peak of a process that takes one step with AdamW, pictures and imports included. The law: {law[0]:.2f} GiB + "
        f"{law[1] * 1024:.2f} MiB per pair of the batch + {law[2] * 1024:.1f} MiB per pair of a chunk."
    )
    yield Row(f"{arch}, the law at {sizes.tested[0]} pairs", "step", checks=(Check("relative error", error, 0.05),))
    peaks = (
        Check("foretold peak", float(law @ terms((batch, chunk))), LIMIT, "GiB"),
        Check("without chunks", float(law @ terms((batch, batch))), unit="GiB"),
    )
    yield Row(f"{arch}, {batch:,} pairs in chunks of {chunk}", "step", checks=peaks, note=note)


@contextmanager
def freeing() -> Iterator[None]:
    """Processes started in the block give freed memory back at once; glibc keeps some, how much is chance."""
    before = dict(os.environ)
    os.environ.update(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def terms(at: Step) -> tuple[float, float, float]:
    """What the cost of a step is linear in: 1, its chunk, its batch."""
    return 1.0, float(at[0]), float(at[1])


def row(arch: str, at: Step, found: Alone) -> Row:
    """The measured step of one batch."""
    batch, chunk = at
    checks = (Check("peak memory", found.peak_gib, unit="GiB"),)
    return Row(f"{arch}, {batch} pairs in chunks of {chunk}", "pair", found.times.scaled(1 / batch), checks=checks)


def step(arch: str, batch: int, chunk: int, seed: int) -> None:
    """One step on noise, with the optimiser's moments."""
    model = random_backbone(arch, seed)
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 3, model.image_size, model.image_size, generator=draw)
    tokens = model.tokenize([f"a photo of thing {i} in place {i * i}" for i in range(batch)])
    pairs = [PairBatch(images, tokens, None)]
    train_contrastive(model, pairs, ContrastiveOptions(steps=1, chunk=chunk, seed=seed))
