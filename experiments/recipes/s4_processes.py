"""S4's training by Spark, and one that was stopped: which weights are there in the end. On a small random CLIP.

The processes of Spark import this module.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.contrastive.distributed.spark import run_on_spark
from clip_fewshot.contrastive.distributed.torchrun import join_world
from clip_fewshot.contrastive.distributed.world import SingleProcess, World
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.trainer import StepReport, train_contrastive
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.errors import ResourceError
from clip_fewshot.report import tables
from clip_fewshot.runtime.files import read_json

SMALL = CLIPConfig(32, 32, 2, 64, 1, 8, 32, 1, 1)
PICTURES, BATCH, EPOCHS, RATE, PROCESSES = 48, 15, 4, 5e-5, 2  # batches of 15 make uneven parts
Weights = Mapping[str, Tensor]


class StoppedError(Exception):
    """In place of a kill."""


def compared(data: ImageDataset) -> dict[str, Any]:
    """By Spark and resumed, against one process that was left alone."""
    some = data.subset(np.unique(data.digests, return_index=True)[1][:PICTURES])
    start, alone = build_backbone(SMALL, 0).state_dict(), trained(some, SingleProcess()).state_dict()
    return {"spark": by_spark(some, start, alone), "resume": resumed(some, alone)}


def trained(data: ImageDataset, world: World, **keep: Any) -> Backbone:
    """The small model after the recipe's training on ``data``."""
    model = build_backbone(SMALL, 0)
    batch = min(BATCH, len(data))
    pairs = PairStream(data, model, batch=batch, seed=0, rank=world.rank, world=world.size, truncate=True)
    options = ContrastiveOptions(epochs=EPOCHS, learning_rate=RATE, weight_decay=0.2)
    return train_contrastive(model, pairs, options, world=world, **keep)


def weights_of_process_0(data: ImageDataset) -> bytes:
    """What Spark runs in each process."""
    with join_world() as world:
        model = trained(data, world)
    return safetensors.torch.save(model.state_dict()) if world.rank == 0 else b""


def by_spark(data: ImageDataset, start: Weights, alone: Weights) -> dict[str, Any]:
    """One training, and what the driver has of it: the copy that it holds itself, or what it was sent."""
    driver, began = build_backbone(SMALL, 0), time.perf_counter()
    try:
        with redirect_stdout(sys.stderr):
            sent = run_on_spark(weights_of_process_0, data, processes=PROCESSES)
    except ResourceError as error:
        return {"not_run": str(error)}
    seconds, ends = (
        time.perf_counter() - began,
        {"as written": driver.state_dict(), "ours": safetensors.torch.load(sent)},
    )
    rows = {kind: {"change": distance(end, start), "from_one": distance(end, alone)} for kind, end in ends.items()}
    return {"processes": PROCESSES, "seconds": seconds, "rows": rows}


def resumed(data: ImageDataset, alone: Weights) -> dict[str, Any]:
    """A training that is stopped between two checkpoints, and goes on from the first."""
    steps = len(data) // min(BATCH, len(data))
    last = EPOCHS // 2 * steps + steps // 2

    def stop(report: StepReport) -> None:
        if report.step == last:
            raise StoppedError

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with suppress(StoppedError):
            trained(data, SingleProcess(), folder=folder, on_step=stop)
        meta = read_json(folder / "checkpoint" / "manifest.json")["meta"]
        end = trained(data, SingleProcess(), folder=folder, resume=True).state_dict()
    holds = {key: meta[key] for key in ("epoch", "position", "loss")}
    return {"stopped_after": last + 1, "went_on_after": meta["steps_taken"], **holds, "from_one": distance(end, alone)}


def distance(one: Weights, other: Weights) -> float:
    """Between the two numbers that are furthest apart."""
    return max(float((one[name] - other[name]).abs().max()) for name in other)


def table(found: dict[str, Any]) -> str:
    """A line per end of a training."""
    head = [f"small CLIP, {EPOCHS} epochs; weights, largest difference", "from the start", "from one process"]
    spark, resume, rows = found["spark"], found["resume"], [head]
    for kind, row in spark.get("rows", {}).items():
        rows.append([f"{spark['processes']} processes of Spark, saved {kind}", *(f"{row[k]:.1e}" for k in row)])
    stopped = f"stopped after step {resume['stopped_after']}, went on from step {resume['went_on_after']}"
    rows.append([stopped, "", f"{resume['from_one']:.1e}"])
    note = f"Spark took {spark['seconds']:.0f} s" if "rows" in spark else f"Spark was not run: {spark['not_run']}"
    held = f"epoch {resume['epoch']}, batch {resume['position']}, loss {resume['loss']:.3f}"
    return f"{tables.format_plain(rows)}\n{note}; the checkpoint held model, optimizer, {held}"
