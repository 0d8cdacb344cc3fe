"""Pictures or texts in, features out: the one place where pictures meet a backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.prefix import Prefix, run_prefix, run_suffixes
from clip_fewshot.types import FeatureSet, FloatArray

BATCH = 32  # 8 to 32 embed fastest on CPUs; larger batches lose to page faults of fresh outputs


def image_batches(backbone: Backbone, images: ImageDataset, views: int = 1, batch: int = BATCH) -> Iterator[Tensor]:
    """Preprocessed pictures in order, (b * views, 3, h, w); view 1 is the mirror image of view 0."""
    for start in range(0, len(images), batch):
        pixels = [backbone.preprocess(images.open(i)) for i in range(start, min(start + batch, len(images)))]
        plain = torch.stack(pixels).to(backbone.device)
        if views == 2:
            plain = torch.stack([plain, plain.flip(-1)], dim=1).flatten(0, 1)
        yield plain


def image_prefix(backbone: Backbone, images: ImageDataset, cuts: Sequence[int], views: int = 1) -> Prefix:
    """Run the frozen image layers once and keep what enters each cut."""
    with backbone.autocast():
        return run_prefix(backbone.visual, image_batches(backbone, images, views), cuts, views)


def image_features(
    backbone: Backbone, images: ImageDataset, suffixes: Sequence[tuple[int, nn.Module]]
) -> list[FloatArray]:
    """Features (n, d) of all pictures under each tuned suffix, in one pass through the frozen layers."""
    if len(images) == 0:
        return [torch.empty(0, backbone.visual.out_features).numpy() for _ in suffixes]
    with backbone.autocast():
        return [f.numpy() for f in run_suffixes(backbone.visual, image_batches(backbone, images), suffixes)]


def encode_images(backbone: Backbone, images: ImageDataset) -> FeatureSet:
    """Features of the untuned image tower, (n, d) float32, not normalised."""
    (features,) = image_features(backbone, images, [(0, backbone.visual.suffix(0))])
    return FeatureSet(
        features=features,
        digests=images.digests,
        backbone=backbone.digest,
        labels=images.labels,
        label_space=images.label_space,
    )


@torch.no_grad()
def encode_texts(backbone: Backbone, texts: Sequence[str], batch: int = 64) -> FloatArray:
    """Features of the untuned text tower, (n, d) float32, not normalised."""
    tokens = backbone.tokenize(list(texts)).to(backbone.device)
    features = [backbone.encode_text(piece).float().cpu() for piece in torch.split(tokens, batch)]
    return torch.cat(features).numpy()
