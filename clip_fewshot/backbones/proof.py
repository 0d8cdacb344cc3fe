"""Whether a foreign model's features are those of its own library: compared on trial inputs each time it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.encoders import SAMPLES
from clip_fewshot.errors import ArtifactError

PROOF_TOLERANCE = 1e-5  # of the largest feature; a pixel that is one grey level off makes more
# Width and height over the side of the model's square: landscape, portrait with odd margins, smaller than the square.
TRIAL_SHAPES = ((1.75, 1.31), (1.13, 1.9), (0.6, 0.47))


def draw_trial_pictures(side: int) -> list[Image.Image]:
    """Pictures of waves and noise, the same each time, none of them a square."""
    shapes = [(int(side * wide), int(side * high)) for wide, high in TRIAL_SHAPES]
    return [_waves(width, height, seed) for seed, (width, height) in enumerate(shapes)]


@torch.no_grad()
def prove(
    backbone: Backbone,
    images: Callable[[Image.Image], Tensor],
    texts: Callable[[Sequence[str]], Tensor] | None,
    tolerance: float = PROOF_TOLERANCE,
) -> None:
    """Compare a backbone with the library that its model comes from, on trial pictures and texts.

    Args:
        images, texts: the library's own way from a picture to its (1, d) features, by its own preprocessing; and from
            n texts to (n, d), by its own tokenizer, long ones cut. None: the model reads no texts.
        tolerance: largest difference, as a share of the largest feature.

    Raises:
        ArtifactError: features that differ, or code of that library that fails.
    """
    for i, picture in enumerate(draw_trial_pictures(backbone.image_size)):
        own = backbone.encode_image(backbone.preprocess(picture)[None])
        _compare(own, _called(partial(images, picture), backbone.name), f"trial picture {i}", backbone, tolerance)
    if texts is not None:
        given = [*SAMPLES, " ".join(SAMPLES) * 20]
        own = backbone.encode_text(backbone.tokenize(given, truncate=True))
        _compare(own, _called(partial(texts, given), backbone.name), "trial texts", backbone, tolerance)


def _compare(own: Tensor, wanted: Tensor, what: str, backbone: Backbone, tolerance: float) -> None:
    same = own.shape == wanted.shape
    difference = float((own - wanted).abs().max() / wanted.abs().max()) if same else float("nan")
    if not difference <= tolerance:  # a NaN is no proof
        off = f"that differ by {difference:.2g} of their size" if same else f"of shape {tuple(own.shape)}"
        raise ArtifactError(
            expected=f"the features of its own library, {tuple(wanted.shape)}",
            got=f"{off} on {what}",
            fix="choose another model; this one is built or prepared in a way that is not known here",
            where=backbone.name,
        )


def _called(features: Callable[[], Tensor], name: str) -> Tensor:
    try:
        return features().float().cpu()
    except Exception as error:  # the code is another library's
        raise ArtifactError(
            expected="a model that its own library runs",
            got=f"{type(error).__name__}: {error}"[:300],
            fix="try it with that library alone",
            where=name,
        ) from error


def _waves(width: int, height: int, seed: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = [np.sin((7 + 3 * channel) * x + (11 - 2 * channel) * y + seed) for channel in range(3)]
    noise = np.random.default_rng(seed).normal(0, 0.25, (height, width, 3))
    return Image.fromarray(np.uint8(np.clip(127.5 * (1 + np.stack(waves, -1) + noise), 0, 255)))
