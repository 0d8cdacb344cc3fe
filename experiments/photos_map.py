"""Derive the map of the model "photos" again: `python -m experiments.photos_map OUT.safetensors`.

Ridge regression from MiniLM's features of ImageNet's 1,000 class names to the rows of EfficientNet-Lite2's classifier,
each row without their mean: what is said of a class, to the direction in which the tower looks for it. No picture is
used. The names are torchvision's (``torchvision/models/_meta.py``, BSD-3-Clause).
"""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from clip_fewshot.backbones.real_photos import build_photos, find_pinned
from clip_fewshot.errors import ResourceError
from clip_fewshot.features.encode import encode_texts
from clip_fewshot.types import FloatArray

TEXTS = ("a photo of a {}.", "{}", "a picture of a {}")
PENALTY = 1.0  # times the mean square of a text's length; .3 and 3 name the same share of caltech101_20 to .005


def derive_map(names: list[str]) -> FloatArray:
    """(1280, 384) float32; names of ImageNet's classes in their order."""
    pair = build_photos(torch.eye(1280, 384))  # (1280, 384) with the text features on top
    features = np.stack([encode_texts(pair, [text.format(name) for name in names]) for text in TEXTS])[..., :384]
    rows = torch.load(find_pinned()[0], weights_only=True)["_fc.weight"].numpy()
    mean, square = features.mean(0), (features**2).sum(-1).mean()
    gram = mean.T @ mean + PENALTY * square * np.eye(mean.shape[1])
    return np.linalg.solve(gram, mean.T @ (rows - rows.mean(0))).T.astype(np.float32)


def imagenet_names() -> list[str]:
    """The names in torchvision's file; its import would fail where it does not fit to torch."""
    package = find_spec("torchvision")
    if package is None or package.origin is None:
        raise ResourceError(expected="torchvision, for its names", got="none", fix="pip install torchvision")
    names: list[str] = runpy.run_path(str(Path(package.origin).parent / "models" / "_meta.py"))["_IMAGENET_CATEGORIES"]
    return names


if __name__ == "__main__":
    found = torch.from_numpy(derive_map(imagenet_names())).half().contiguous()
    safetensors.torch.save_file({"map": found}, Path(sys.argv[1]))
