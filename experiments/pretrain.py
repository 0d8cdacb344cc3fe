"""Train a CLIP from scratch: `python -m experiments.pretrain photos/ --model ViT-B/32 --out DIR`.

Without DATA it trains the small model that ships with the package, on rendered glyphs: `--preset mini --out DIR`.
On several processes: `torchrun --nproc-per-node 4 -m experiments.pretrain photos/ ...`, or `--spark --processes 4`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import clip_fewshot as cf
from experiments.glyphs.presets import PRESETS
from experiments.options import run

PROG = "python -m experiments.pretrain"
DESCRIPTION = (
    "Train a CLIP from scratch on image-caption pairs, with the numbers of CLIP's paper where none are given; without "
    "DATA, the small model of this package on rendered glyphs. torchrun starts it on several processes."
)
FOR_BOTH = {"data", "out", "seed", "steps", "threads", "preset"}


@dataclass(frozen=True)
class Options:
    out: Path = cf.option(None, "folder for the model, its checkpoint and metrics.jsonl (required)")
    data: str | None = cf.option(None, "captioned pictures: pairs of files, table, list or tar shards", positional=True)
    model: str | None = cf.option(None, "official CLIP name or a JSON file of an architecture (default: ViT-B/32)")
    preset: str | None = cf.option(None, "without DATA: which model (default: mini)", choices=tuple(PRESETS))
    epochs: int | None = cf.option(None, "passes over the pictures (default: 32)")
    steps: int | None = cf.option(None, "optimiser steps, in place of epochs or of the preset's")
    batch: int | None = cf.option(None, "pairs in a step, of all processes together (default: 256, or all there are)")
    learning_rate: float | None = cf.option(None, "peak (default: the paper's for the model)")
    warmup: int | None = cf.option(None, "steps of rising rate (default: 2000, at most a tenth of all)")
    weight_decay: float = cf.option(0.2, "on matrices")
    averaging: float = cf.option(0.0, "decay per step of the mean of the weights that is kept in the end; 0: the last")
    identity_targets: bool = cf.option(False, "take equal captions of a batch for wrong ones, as CLIP does")
    chunk: int | None = cf.option(None, "pairs in one pass: memory falls with it, the gradient stays (default: all)")
    checkpoint_gradients: bool = cf.option(False, "compute blocks twice in place of keeping their activations")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = cf.option("auto", "of activations")
    state_dtype: Literal["float32", "bfloat16"] = cf.option("float32", "of the optimiser's moments")
    text_weights: Literal["float32", "bfloat16"] = cf.option("float32", "of the text tower while it is trained")
    augment: float | None = cf.option(None, "least share of the area of random crops, in (0, 1] (default: none)")
    truncate: bool = cf.option(False, "cut captions that are too long instead of refusing them")
    validation: int = cf.option(100, "pictures kept out of training to measure loss and recall on; 0: none")
    labelled: str | None = cf.option(None, "pictures with classes to measure zero-shot accuracy on")
    save_every: int | None = cf.option(None, "steps between checkpoints (default: one an epoch)")
    resume: bool = cf.option(False, "go on from the checkpoint in --out")
    tensorboard: bool = cf.option(False, "show the figures in TensorBoard too")
    seed: int = cf.option(0, "of weights, order, captions and crops")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    threads: int | None = cf.option(None, "processor threads (default: torch's; 2 for a preset)")
    spark: bool = cf.option(False, "start the processes by Spark (on this machine, if it has no other master)")
    processes: int = cf.option(2, "how many, with --spark")

    def __post_init__(self) -> None:
        if self.out is None:
            raise cf.UsageError(expected="a folder", got="none", fix="give --out DIR", where="--out")
        if self.data is not None and self.preset is not None:
            raise cf.UsageError(expected="DATA or --preset", got="both", fix="leave one of them out", where="--preset")
        if self.data is None:
            odd = [f.name for f in fields(self) if f.name not in FOR_BOTH and getattr(self, f.name) != f.default]
            if odd:
                flag = f"--{odd[0].replace('_', '-')}"
                raise cf.UsageError(
                    expected="DATA", got="none", fix=f"name the pictures, or leave {flag} out", where=flag
                )
        if self.steps is not None and self.epochs is not None:
            raise cf.UsageError(
                expected="--steps or --epochs", got="both", fix="leave one of them out", where="--steps"
            )
        for name in ("epochs", "steps", "batch", "threads", "chunk", "save_every", "processes"):
            if (getattr(self, name) or 1) < 1 or getattr(self, name) == 0:
                flag = f"--{name.replace('_', '-')}"
                raise cf.UsageError(
                    expected="1 or more", got=str(getattr(self, name)), fix=f"change {flag}", where=flag
                )
        if self.validation < 0:
            raise cf.UsageError(
                expected="0 or more", got=str(self.validation), fix="change --validation", where="--validation"
            )


def main(options: Options) -> int:
    import torch

    threads = options.threads or (2 if options.data is None else None)
    if threads is not None:
        torch.set_num_threads(threads)
    if options.data is None:
        from experiments.glyphs.recipe import run_preset

        run_preset(options.preset or "mini", options.steps, options.seed, options.out)
        return 0
    from experiments.pairs import pretrain_as_one_of_many

    if options.spark:
        for name, data in cf.on_spark(pretrain_as_one_of_many, options, processes=options.processes).items():
            cf.write_bytes(options.out / name, data)  # where rank 0 has no disk in common with this machine
    else:
        pretrain_as_one_of_many(options)
    return 0


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
