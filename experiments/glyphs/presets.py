"""Sizes of the models that are trained on glyphs."""

from __future__ import annotations

from dataclasses import dataclass


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
