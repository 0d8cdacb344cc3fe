"""How good a model is on rendered pictures that training never drew: what the recipe was chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.heads.zero_shot import zero_shot_weights
from clip_fewshot.runtime.rng import generator
from experiments.glyphs.pool import Pool, unseen_hands, unseen_letters
from experiments.glyphs.scenes import SceneStyle, draw_scenes
from experiments.glyphs.stream import pixels

TEMPLATES = ("a photo of a {}.", "an image of the {}", "a photo of the digit {}")
SHOTS = (1, 4, 16)
DRAWS = 5
STYLES = {"scan": 1.0, "wild": 0.0}

FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.int64]


@dataclass(frozen=True)
class ValidationSet:
    """Rendered pictures with labels and the words for them."""

    images: torch.Tensor
    labels: LabelArray
    names: tuple[str, ...]


def validation_set(pool: Pool, image_size: int, style: str, seed: int) -> ValidationSet:
    """Every glyph of the pool once, all as scans or all in the wild."""
    rng = generator(seed, "validation", style)
    scenes = draw_scenes(pool, np.arange(len(pool)), SceneStyle(image_size, scans=STYLES[style]), rng)
    return ValidationSet(scenes.images, scenes.attributes[:, 0], tuple(item.names[0] for item in pool.classes))


def validate(backbone: Backbone, seed: int = 9, hands: int = 60) -> dict[str, float]:
    """Accuracy on digits in unseen ways of writing and on ten letters never trained, as scans and in the wild.

    Zero-shot for the digits, nearest class mean of K shots for the letters; means over DRAWS support sets.
    """
    figures = {}
    digits, letters = unseen_hands(seed, hands), unseen_letters(seed, hands)
    for style in STYLES:
        known = validation_set(digits, backbone.image_size, style, seed)
        figures[f"zero_shot_{style}"] = zero_shot_accuracy(backbone, known, TEMPLATES)
        new = validation_set(letters, backbone.image_size, style, seed)
        features = image_features(backbone, new.images)
        for shots in SHOTS:
            draws = [nearest_mean_accuracy(features, new.labels, shots, seed + i) for i in range(DRAWS)]
            figures[f"letters_{style}_{shots}"] = float(np.mean(draws))
    return figures


@torch.no_grad()
def image_features(backbone: Backbone, images: torch.Tensor) -> FloatArray:
    """(n, d) unit rows."""
    parts = [F.normalize(backbone.encode_image(pixels(part, backbone)), dim=1) for part in torch.split(images, 256)]
    return np.asarray(torch.cat(parts).numpy())


def zero_shot_accuracy(backbone: Backbone, data: ValidationSet, templates: Sequence[str]) -> float:
    """Share of pictures whose own class name is the nearest, the templates averaged."""
    weights = zero_shot_weights(backbone, data.names, templates).numpy()
    return float((np.argmax(image_features(backbone, data.images) @ weights.T, axis=1) == data.labels).mean())


def nearest_mean_accuracy(features: FloatArray, labels: LabelArray, shots: int, seed: int) -> float:
    """Accuracy on the rest when ``shots`` pictures of each class give the class means."""
    rng = generator(seed, "support", shots)
    support = np.stack([rng.permutation(np.flatnonzero(labels == c))[:shots] for c in np.unique(labels)])
    rest = np.setdiff1d(np.arange(len(labels)), support)
    means = features[support].mean(axis=1)
    nearest = np.argmin(((features[rest, None] - means[None]) ** 2).sum(axis=2), axis=1)
    return float((np.unique(labels)[nearest] == labels[rest]).mean())
