"""The recipe of the shipped model: a small CLIP trained on rendered, captioned glyphs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.folder import save_backbone
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.trainer import StepReport, train_contrastive
from experiments.glyphs.guidance import Guided
from experiments.glyphs.pool import Pool, training_pool
from experiments.glyphs.presets import PRESETS, Preset
from experiments.glyphs.scenes import SceneStyle
from experiments.glyphs.stream import GlyphStream, StreamOptions
from experiments.glyphs.validation import validate
from experiments.glyphs.vocabulary import Vocabulary

REPORT_EVERY = 100


def run_preset(name: str, steps: int | None, seed: int, out: Path, overwrite: bool = False) -> None:
    """Train a preset, write it to ``out``, and print how good it is."""
    preset = PRESETS[name] if steps is None else replace(PRESETS[name], steps=steps)
    model = pretrain(preset, seed, out, overwrite)
    for figure, value in validate(model).items():
        print(f"{figure:16s} {value:.3f}")
    print(f"model: {sum(file.stat().st_size for file in out.iterdir()):,} bytes in {out}")
    print(f"warning: {model.config.warning()}")


def pretrain(preset: Preset, seed: int, out: Path, overwrite: bool = False) -> Backbone:
    """Render, train, and write the model to ``out``."""
    started = time.perf_counter()
    pool = training_pool(seed, preset.hands, preset.marks, preset.faces)
    vocabulary = Vocabulary(pool.classes)
    _say(f"{len(pool):,} glyphs of {len(pool.classes)} classes, {vocabulary.size - 1} tokens", started)
    backbone = train(preset, pool, vocabulary, seed, _progress(preset.steps))
    wide = vocabulary.widen(backbone)
    save_backbone(wide, out, used_token_ids=vocabulary.used_ids.tolist(), overwrite=overwrite)
    _say("trained", started)
    return wide


def train(
    preset: Preset, pool: Pool, vocabulary: Vocabulary, seed: int, on_step: Callable[[StepReport], None]
) -> Backbone:
    """A model over the compact vocabulary, trained."""
    backbone = build_backbone(_config(preset, vocabulary.size), seed, name="mini")
    style, stream = SceneStyle(preset.image_size, preset.scans), StreamOptions(preset.pictures, preset.pictures // 4)
    pairs = GlyphStream(pool, vocabulary, backbone, style, stream, preset.steps, seed)
    settings = ContrastiveOptions(
        steps=preset.steps,
        learning_rate=preset.learning_rate,
        weight_decay=0.05,
        clip_norm=1.0,
        averaging=0.99,
        seed=seed,
    )
    objective = Guided(preset.embed_dim, len(pool.classes), preset.steps, seed=seed)
    return train_contrastive(backbone, pairs, settings, objective=objective, on_step=on_step)


def _config(preset: Preset, vocab_size: int) -> CLIPConfig:
    return CLIPConfig(
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


def _progress(steps: int) -> Callable[[StepReport], None]:
    """A printer of the mean loss, and its excess over what the batches allowed, every REPORT_EVERY steps."""
    window: list[StepReport] = []

    def on_step(report: StepReport) -> None:
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
