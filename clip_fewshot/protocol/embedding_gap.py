"""Where pictures and texts lie in the common space of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.features.encode import encode_images, encode_texts
from clip_fewshot.heads.zero_shot import zero_shot_weights
from clip_fewshot.plots import measure_modality_gap, measure_spread
from clip_fewshot.plots.views import EmbeddingView


def embed_both(backbone: Backbone, data: ImageDataset, title: str, templates: Sequence[str]) -> EmbeddingView:
    """Pictures, each once, and their captions; of labelled pictures, the mean of the templates about each class."""
    once = data.subset(np.sort(np.unique(data.digests, return_index=True)[1]))
    images = encode_images(backbone, once).features
    if data.captions is None:
        names = data.label_space.names
        texts = zero_shot_weights(backbone, names, templates).cpu().numpy()
        return EmbeddingView(title, images, once.required_labels(), texts, names)
    names = tuple(dict.fromkeys(data.captions))
    unlabelled = np.full(len(once), -1, dtype=np.int64)
    return EmbeddingView(title, images, unlabelled, encode_texts(backbone, names), names)


def measure_gap(view: EmbeddingView) -> dict[str, Any]:
    """The gap, beside how far rows of one modality lie from their own mean."""
    apart = {what: measure_spread(rows) for what, rows in (("images", view.images), ("texts", view.texts))}
    gap = measure_modality_gap(view.images, view.texts)
    return {"gap": gap, "spread": apart, "n_images": len(view.images), "n_texts": len(view.texts)}
