"""The endless stream of training batches, and preprocessed pictures for a backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

import clip_fewshot as cf
from experiments.glyphs.captions import Captioner, true_of
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


def pixels(images: Tensor, backbone: cf.Backbone) -> Tensor:
    """(b, 3, s, s) in [0, 1] of the model's own size -> what ``backbone.preprocess`` would make of them, unrounded."""
    size = (backbone.image_size, backbone.image_size)
    black, white = (backbone.preprocess(Image.new("RGB", size, colour)) for colour in ("black", "white"))
    return torch.lerp(black, white, images)


def _eased(style: SceneStyle, hardness: float) -> SceneStyle:
    scans = EASY_SCANS + (style.scans - EASY_SCANS) * hardness
    return replace(style, scans=scans, bend=style.bend * (EASY_BEND + (1 - EASY_BEND) * hardness))


def batches(
    pool: Pool,
    vocabulary: Vocabulary,
    backbone: cf.Backbone,
    style: SceneStyle,
    options: StreamOptions,
    steps: int,
    seed: int,
) -> Iterator[cf.MatchedBatch]:
    """``steps`` batches, each drawn from a generator of its own, so that any one of them can be drawn again."""
    captioner = Captioner(pool.classes)
    for step in range(steps):
        rng = cf.generator(seed, "batch", step)
        hardness = min(1.0, step / max(1.0, options.gentle * steps))
        scenes = draw_scenes(pool, pool.draw(options.pictures, rng), _eased(style, hardness), rng)
        texts, stated = captioner.write(scenes.attributes, options.detailed, rng)
        tokens = vocabulary.forget(vocabulary.encode(texts), options.forgotten, rng)
        matches = torch.from_numpy(true_of(scenes.attributes, stated))
        labels = torch.from_numpy(scenes.attributes[:, 0])
        yield cf.MatchedBatch(pixels(scenes.images, backbone), tokens, matches, labels)
