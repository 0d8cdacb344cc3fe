"""Contrastive training on one process and on two: pictures per second, as torchrun runs the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from clip_fewshot.errors import ResourceError
from clip_fewshot.runtime.files import write_bytes, write_json
from experiments.benchmark.options import Options
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import pictures
from experiments.benchmark.timing import Spent, Times

ARCHITECTURE = {
    "embed_dim": 256,
    "image_size": 96,
    "vision_layers": 6,
    "vision_width": 256,
    "vision_heads": 4,
    "patch_size": 16,
    "text_width": 192,
    "text_heads": 3,
    "text_layers": 4,
}


@dataclass(frozen=True)
class Sizes:
    """A training of ``epochs`` x ``pairs`` / ``batch`` steps; the first ``unseen`` ones start things up."""

    pairs: int = 256
    batch: int = 128
    epochs: int = 6
    unseen: int = 2
    processes: int = 2


def missing() -> str:
    """What this case needs and the machine lacks."""
    return "" if (os.cpu_count() or 1) > 1 else "a second core"


def rows(options: Options, sizes: Sizes | None = None) -> Iterator[Row]:
    """One process against several on the same pairs."""
    sizes = sizes or Sizes()
    with TemporaryDirectory() as place:
        folder = Path(place)
        pictures(folder / "pairs", 1, sizes.pairs, options.seed, (128, 96))
        for image in sorted(folder.glob("pairs/*/*.jpg")):
            write_bytes(image.with_suffix(".txt"), f"picture number {image.stem}".encode())
        write_json(folder / "architecture.json", ARCHITECTURE)
        one, many = (times(folder, n, sizes, options) for n in (1, sizes.processes))
    apart = max(abs(a - b) / abs(b) for a, b in zip(many[1], one[1], strict=True))
    checks = (
        Check("losses", apart, 1e-3),
        Check("pictures per second on 1", 1 / one[0].wall),
        Check(f"on {sizes.processes}", 1 / many[0].wall),
    )
    note = f"Plain way: one process of {options.n_threads} thread; ours: {sizes.processes}; all times are wall times."
    yield Row(f"{sizes.processes} processes, batch {sizes.batch}", "picture", many[0], one[0], None, checks, note)


def times(folder: Path, processes: int, sizes: Sizes, options: Options) -> tuple[Times, list[float]]:
    """(seconds per picture, the loss of each step)."""
    out = folder / f"on {processes}"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
        *("-m", "clip_fewshot", "pretrain", str(folder / "pairs"), "--model", str(folder / "architecture.json")),
        *("--out", str(out), "--passes", str(sizes.epochs), "--batch", str(sizes.batch), "--validation", "0"),
        *("--threads", str(options.n_threads), "--seed", str(options.seed), "--device", "cpu"),
    ]
    limits = {"OMP_NUM_THREADS": str(options.n_threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True)
    if done.returncode:
        raise ResourceError(
            expected=f"a training on {processes} processes", got=done.stderr[-300:], fix="see above", where="torchrun"
        )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    seconds = [(line["data_seconds"] + line["compute_seconds"]) / sizes.batch for line in steps[sizes.unseen :]]
    return Times((Spent(median(seconds), median(seconds)),)), [line["loss"] for line in steps]
