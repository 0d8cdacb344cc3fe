"""Train a small CLIP on rendered, captioned glyphs: ``python -m experiments.pretrain --preset mini --out DIR``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments import options
from experiments.glyphs.presets import PRESETS


@dataclass(frozen=True)
class PretrainOptions:
    """The command line."""

    out: Path = field(metadata={"help": "folder for model.safetensors and config.json"})
    preset: str = field(default="mini", metadata={"help": "which model", "choices": tuple(PRESETS)})
    seed: int = field(default=0, metadata={"help": "of the glyphs, the pictures and the first weights"})
    steps: int | None = field(default=None, metadata={"help": "optimiser steps, in place of the preset's"})
    threads: int = field(default=2, metadata={"help": "processor threads"})


def main(chosen: PretrainOptions) -> int:
    import torch

    from experiments.glyphs.recipe import pretrain
    from experiments.glyphs.validation import validate

    torch.set_num_threads(chosen.threads)
    preset = PRESETS[chosen.preset]
    preset = preset if chosen.steps is None else replace(preset, steps=chosen.steps)
    backbone = pretrain(preset, chosen.seed, chosen.out)
    for name, value in validate(backbone).items():
        print(f"{name:16s} {value:.3f}")
    print(f"model: {sum(file.stat().st_size for file in chosen.out.iterdir()):,} bytes in {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(
        options.run(main, PretrainOptions, "python -m experiments.pretrain", "Train a small CLIP on rendered glyphs.")
    )
