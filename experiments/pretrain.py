"""Train a small CLIP on rendered, captioned glyphs: ``python -m experiments.pretrain --preset mini --out DIR``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import clip_fewshot as cf
from experiments import options

if TYPE_CHECKING:
    from experiments.glyphs.pool import Pool
    from experiments.glyphs.vocabulary import Vocabulary

REPORT_EVERY = 100


@dataclass(frozen=True)
class Preset:
    """A model and how long it is trained.

    Args:
        image_size, patch_size: pixels.
        width, layers, heads: of the image tower; the text tower has two layers of 64.
        embed_dim: width of the common space.
        steps, pictures, learning_rate: of the training.
        scans: share of pictures drawn as bitmap scans.
        hands: handwritten versions of each digit in the pool.
        marks: invented characters in the pool.
        faces: typefaces in the pool.
    """

    image_size: int = 32
    patch_size: int = 8
    width: int = 128
    layers: int = 4
    heads: int = 4
    embed_dim: int = 128
    steps: int = 12_000
    pictures: int = 64
    learning_rate: float = 1.5e-3
    scans: float = 0.5
    hands: int = 500
    marks: int = 120
    faces: int = 17


PRESETS = {
    "mini": Preset(),
    "tiny": Preset(
        width=32,
        layers=2,
        heads=2,
        embed_dim=32,
        steps=60,
        pictures=32,
        scans=1.0,
        learning_rate=3e-3,
        hands=12,
        marks=4,
        faces=1,
    ),
}


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

    torch.set_num_threads(chosen.threads)
    preset = PRESETS[chosen.preset]
    preset = preset if chosen.steps is None else replace(preset, steps=chosen.steps)
    backbone = pretrain(preset, chosen.seed, chosen.out)
    from experiments.glyphs.validation import validate

    for name, value in validate(backbone).items():
        print(f"{name:16s} {value:.3f}")
    print(f"model: {sum(file.stat().st_size for file in chosen.out.iterdir()):,} bytes in {chosen.out}")
    return 0


def pretrain(preset: Preset, seed: int, out: Path) -> cf.Backbone:
    """Render, train, and write the model to ``out``."""
    from experiments.glyphs.pool import training_pool
    from experiments.glyphs.vocabulary import Vocabulary

    started = time.perf_counter()
    pool = training_pool(seed, preset.hands, preset.marks, preset.faces)
    vocabulary = Vocabulary(pool.classes)
    _say(f"{len(pool):,} glyphs of {len(pool.classes)} classes, {vocabulary.size - 1} tokens", started)
    backbone = train(preset, pool, vocabulary, seed, _progress(preset.steps))
    wide = vocabulary.widen(backbone)
    cf.save_backbone(wide, out, used_token_ids=vocabulary.used_ids.tolist())
    _say("trained", started)
    return wide


def train(
    preset: Preset, pool: Pool, vocabulary: Vocabulary, seed: int, on_step: Callable[[cf.StepReport], None]
) -> cf.Backbone:
    """A model over the compact vocabulary, trained."""
    from experiments.glyphs.scenes import SceneStyle
    from experiments.glyphs.stream import StreamOptions, batches

    backbone = cf.build_backbone(_config(preset, vocabulary.size), seed, name="mini")
    style, stream = SceneStyle(preset.image_size, preset.scans), StreamOptions(preset.pictures, preset.pictures // 4)
    pairs = batches(pool, vocabulary, backbone, style, stream, preset.steps, seed)
    settings = cf.ContrastiveOptions(
        preset.steps, preset.learning_rate, n_classes=len(pool.classes), class_loss=2.0, seed=seed
    )
    return cf.train_contrastive(backbone, pairs, settings, on_step)


def _config(preset: Preset, vocab_size: int) -> cf.CLIPConfig:
    return cf.CLIPConfig(
        embed_dim=preset.embed_dim,
        image_size=preset.image_size,
        vision_layers=preset.layers,
        vision_width=preset.width,
        vision_heads=preset.heads,
        patch_size=preset.patch_size,
        text_width=64,
        text_layers=2,
        text_heads=2,
        vocab_size=vocab_size,
    )


def _progress(steps: int) -> Callable[[cf.StepReport], None]:
    """A printer of the mean loss, and its excess over what the batches allowed, every REPORT_EVERY steps."""
    window: list[cf.StepReport] = []

    def on_step(report: cf.StepReport) -> None:
        window.append(report)
        if len(window) == REPORT_EVERY or report.step == steps - 1:
            loss = sum(item.loss for item in window) / len(window)
            excess = loss - sum(item.floor for item in window) / len(window)
            print(
                f"step {report.step + 1:6d}  loss {loss:.3f}  above floor {excess:.3f}  "
                f"scale {report.scale:.1f}  {report.seconds:.0f} s",
                flush=True,
            )
            window.clear()

    return on_step


def _say(message: str, started: float) -> None:
    print(f"{message} ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(
        options.run(main, PretrainOptions, "python -m experiments.pretrain", "Train a small CLIP on rendered glyphs.")
    )
