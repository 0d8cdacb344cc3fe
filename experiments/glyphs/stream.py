"""The training batches, and preprocessed pictures for a backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.runtime.rng import generator
from experiments.glyphs.captions import Captioner, true_of
from experiments.glyphs.guidance import GlyphBatch
from experiments.glyphs.pool import Pool
from experiments.glyphs.scenes import SceneStyle, draw_scenes
from experiments.glyphs.vocabulary import Vocabulary

EASY_SCANS, EASY_BEND = 0.95, 1 / 3


@dataclass(frozen=True)
class StreamOptions:
    """What a batch holds.

    Args:
        pictures: per batch.
        detailed: captions per batch that state more than the class.
        forgotten: share of the words that are replaced by the unknown word, in [0, 1).
        gentle: share of the batches, from the first, over which the pictures grow hard: distortion from a third to its
            full strength, scans from nearly all to their share.
    """

    pictures: int = 128
    detailed: int = 32
    forgotten: float = 0.03
    gentle: float = 0.4


def pixels(images: Tensor, backbone: Backbone) -> Tensor:
    """(b, 3, s, s) in [0, 1] of the model's own size -> what ``backbone.preprocess`` would make of them, unrounded."""
    size = (backbone.image_size, backbone.image_size)
    black, white = (backbone.preprocess(Image.new("RGB", size, colour)) for colour in ("black", "white"))
    return torch.lerp(black, white, images)


def _eased(style: SceneStyle, hardness: float) -> SceneStyle:
    scans = EASY_SCANS + (style.scans - EASY_SCANS) * hardness
    return replace(style, scans=scans, bend=style.bend * (EASY_BEND + (1 - EASY_BEND) * hardness))


@dataclass(frozen=True)
class GlyphStream:
    """One epoch of ``length`` batches, each drawn from a generator of its own, so that any one can be drawn again."""

    pool: Pool
    vocabulary: Vocabulary
    backbone: Backbone
    style: SceneStyle
    options: StreamOptions
    length: int
    seed: int

    def steps(self) -> int:
        """Batches in all."""
        return self.length

    def batches(self, epoch: int, start: int = 0) -> Iterator[GlyphBatch]:
        """Those from ``start`` on."""
        captioner = Captioner(self.pool.classes)
        return (self._batch(captioner, epoch * self.length + step) for step in range(start, self.length))

    def _batch(self, captioner: Captioner, step: int) -> GlyphBatch:
        options, rng = self.options, generator(self.seed, "batch", step)
        hardness = min(1.0, step / max(1.0, options.gentle * self.length))
        style = _eased(self.style, hardness)
        scenes = draw_scenes(self.pool, self.pool.draw(options.pictures, rng), style, rng)
        texts, stated = captioner.write(scenes.attributes, options.detailed, rng)
        return GlyphBatch(
            images=pixels(scenes.images, self.backbone),
            tokens=self.vocabulary.forget(self.vocabulary.encode(texts), options.forgotten, rng),
            matches=torch.from_numpy(true_of(scenes.attributes, stated)),
            labels=torch.from_numpy(scenes.attributes[:, 0]),
        )
