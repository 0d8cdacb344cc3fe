"""Train the small model of the package again from nothing, on rendered glyphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_fewshot.commands.cli.run import run
from clip_fewshot.commands.cli.shared_options import seed_option
from clip_fewshot.config import OutputOptions, check_range, option
from clip_fewshot.errors import UsageError
from experiments.glyphs.presets import PRESETS

PROG = "python -m experiments.pretrain"
DESCRIPTION = "Train the small model of this package on rendered glyphs, and say how good it is."


@dataclass(frozen=True, kw_only=True)
class Options(OutputOptions):
    """Options of the training of a built-in model."""

    preset: str = option("mini", "which model", choices=tuple(PRESETS))
    steps: int | None = option(None, "optimiser steps (default: the preset's)")
    seed: int = seed_option()
    threads: int | None = option(None, "processor threads (default: 2)")
    out: str | None = option(None, "folder for the model (required)", group="output")

    def __post_init__(self) -> None:
        check_range(self, "steps", "threads")
        if self.out is None:
            raise UsageError(expected="a folder", got="none", fix="give --out DIR", where="--out")


def main(options: Options) -> int:
    """Train the model, check it, and write it."""
    import torch

    from clip_fewshot.backbones.folder import BACKBONE_FOLDER
    from clip_fewshot.runtime.outputs import check_folder
    from experiments.glyphs.recipe import run_preset

    out = check_folder(Path(options.out or ""), BACKBONE_FOLDER, options.overwrite)
    torch.set_num_threads(options.threads or 2)
    run_preset(options.preset, options.steps, options.seed, out, options.overwrite)
    return 0


def start() -> int:
    """As typed."""
    return run(main, Options, PROG, DESCRIPTION, examples=("--preset mini --out runs/mini",))
