"""Class names as directions: the one source of text weights, each name read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.errors import UsageError
from clip_fewshot.heads.zero_shot import zero_shot_weights
from clip_fewshot.runtime.row_cache import Batch, RowCache
from clip_fewshot.types import FloatArray, IndexArray

NAMES_CHUNK = 512  # names encoded between two writes of the cache: what a kill costs


def class_texts(backbone: Backbone, names: Sequence[str], templates: Sequence[str]) -> Mapping[str, FloatArray]:
    """Name -> (d,) unit text features, as :func:`zero_shot_weights`; those met before come from the cache.

    Args:
        names: at least one; more than once is as good as once.
        templates: captions with one "{}"; t of them cost t times as much, the first time. Sets of them stand in
            :data:`~clip_fewshot.data.own_templates.TEMPLATE_SETS`.

    Raises:
        UsageError: no name, or a template without its "{}".
    """
    if not names:
        raise UsageError(expected="at least one name", got="none", fix="give the names of classes", where="class_texts")
    about = {"backbone": backbone.digest, "templates": list(templates), "device": backbone.device.type}

    def encoded(missing: IndexArray) -> Iterator[Batch[str]]:
        for start in range(0, len(missing), NAMES_CHUNK):
            part = missing[start : start + NAMES_CHUNK]
            with torch.inference_mode():
                weights = zero_shot_weights(backbone, [names[i] for i in part], templates)
            yield part, {"words": weights.cpu().numpy()}

    found = RowCache("words", {"words": about}).rows(names, encoded)
    return dict(zip(names, found["words"].read(), strict=True))
