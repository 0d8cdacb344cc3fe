"""Class names in place of training pictures: accuracy of the names alone, and the classes of one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.evaluation.metrics import macro_f1, per_class_table
from clip_fewshot.evaluation.reliability import score_probabilities
from clip_fewshot.features.encode import encode_images
from clip_fewshot.heads.zero_shot import ZeroShotHead, zero_shot_weights


def measure_zero_shot(backbone: Backbone, data: ImageDataset, templates: Sequence[str]) -> dict[str, Any]:
    """Accuracy over the source's own test part, or where it has none over all pictures: nothing is trained or chosen.

    Returns:
        ``accuracy`` with its interval, log loss, Brier score and calibration error with theirs, ``macro_f1``, and
        precision, recall and F1 of each of ``classes``.
    """
    test, names = source_test_part(data), data.label_space.names
    labels = test.required_labels()
    probabilities = zero_shot_probabilities(backbone, test, names, templates).numpy()
    predicted = probabilities.argmax(axis=1)
    rows = per_class_table(labels, predicted, len(names), names)
    return {
        **{key: result.to_json() for key, result in score_probabilities(labels, [probabilities])._asdict().items()},
        "macro_f1": macro_f1(labels, predicted),
        "classes": {name: row._asdict() for name, row in zip(names, rows, strict=True)},
    }


def rank_classes(
    backbone: Backbone, picture: ImageDataset, names: Sequence[str], templates: Sequence[str], top: int
) -> list[dict[str, Any]]:
    """The ``top`` most probable of ``names`` for one picture, the best first."""
    row = zero_shot_probabilities(backbone, picture, names, templates)[0]
    values, places = row.topk(min(top, len(names)))
    ranked = zip(places.tolist(), values.tolist(), strict=True)
    return [{"class": names[i], "probability": value} for i, value in ranked]


def zero_shot_probabilities(
    backbone: Backbone, pictures: ImageDataset, names: Sequence[str], templates: Sequence[str]
) -> torch.Tensor:
    """(n, c) of the pictures for the class names."""
    weights = zero_shot_weights(backbone, names, templates)
    head = ZeroShotHead(weights.cpu(), float(backbone.logit_scale.detach().exp()))
    logits: torch.Tensor = head(torch.from_numpy(encode_images(backbone, pictures).features))
    return logits.softmax(dim=1)


def source_test_part(data: ImageDataset) -> ImageDataset:
    """The pictures that the source itself calls test, or all of them."""
    rows = np.flatnonzero([part == "test" for part in data.partition])
    return data.subset(rows) if len(rows) else data
