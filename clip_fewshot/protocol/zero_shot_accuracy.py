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
from clip_fewshot.geometry import cosines
from clip_fewshot.heads.zero_shot import ZeroShotHead, zero_shot_weights

ONE_TEXT = 1e-5  # one text in two batches differs by about 1e-6


def measure_zero_shot(backbone: Backbone, data: ImageDataset, templates: Sequence[str]) -> dict[str, Any]:
    """Accuracy over the source's own test part, or where it has none over all pictures: nothing is trained or chosen.

    Returns:
        ``accuracy`` with its interval, log loss, Brier score and calibration error with theirs, ``macro_f1``, and
        precision, recall and F1 of each of ``classes``; ``told_alike``, as of :func:`list_alike`.
    """
    test, names = source_test_part(data), data.label_space.names
    labels = test.required_labels()
    weights = zero_shot_weights(backbone, names, templates)
    probabilities = _probabilities(backbone, test, weights).numpy()
    predicted = probabilities.argmax(axis=1)
    rows = per_class_table(labels, predicted, len(names), names)
    return {
        **{key: result.to_json() for key, result in score_probabilities(labels, [probabilities])._asdict().items()},
        "macro_f1": macro_f1(labels, predicted),
        "told_alike": list_alike(weights, names),
        "classes": {name: row._asdict() for name, row in zip(names, rows, strict=True)},
    }


def rank_classes(
    backbone: Backbone, picture: ImageDataset, names: Sequence[str], templates: Sequence[str], top: int
) -> dict[str, Any]:
    """``top``: the most probable of ``names`` for one picture, the best first; ``told_alike``.

    Of a model that was trained with a sigmoid each class has a ``match`` too, see :meth:`Backbone.match`.
    """
    weights = zero_shot_weights(backbone, names, templates)
    row = torch.from_numpy(encode_images(backbone, picture).features)
    values, places = _softmax(backbone, row, weights)[0].topk(min(top, len(names)))
    best = [{"class": names[i], "probability": p} for i, p in zip(places.tolist(), values.tolist(), strict=True)]
    fits = backbone.match(cosines(row, weights.cpu())[0, places])
    if fits is not None:
        best = [one | {"match": float(fit)} for one, fit in zip(best, fits, strict=True)]
    return {"top": best, "told_alike": list_alike(weights, names)}


def list_alike(weights: torch.Tensor, names: Sequence[str]) -> list[str]:
    """The names whose (c, d) unit rows are those of another: all of their words are unknown to the model's texts."""
    same = (weights @ weights.T > 1 - ONE_TEXT).sum(dim=1) > 1
    return [name for name, twice in zip(names, same.tolist(), strict=True) if twice]


def zero_shot_probabilities(
    backbone: Backbone, pictures: ImageDataset, names: Sequence[str], templates: Sequence[str]
) -> torch.Tensor:
    """(n, c) of the pictures for the class names."""
    return _probabilities(backbone, pictures, zero_shot_weights(backbone, names, templates))


def _probabilities(backbone: Backbone, pictures: ImageDataset, weights: torch.Tensor) -> torch.Tensor:
    return _softmax(backbone, torch.from_numpy(encode_images(backbone, pictures).features), weights)


def _softmax(backbone: Backbone, features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = ZeroShotHead(weights.cpu(), float(backbone.logit_scale.detach().exp()))(features)
    return logits.softmax(dim=1)


def source_test_part(data: ImageDataset) -> ImageDataset:
    """The pictures that the source itself calls test, or all of them."""
    rows = np.flatnonzero([part == "test" for part in data.partition])
    return data.subset(rows) if len(rows) else data
