"""Small real things that many tests share: a tiny CLIP with random weights, and pictures of digits."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch

from clip_fewshot.backbones.architectures import CLIPConfig
from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world

TINY = CLIPConfig(
    embed_dim=32,
    image_size=16,
    vision_layers=3,
    vision_width=32,
    vision_heads=2,
    patch_size=8,
    text_width=32,
    text_layers=2,
    text_heads=2,
)


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """What a shell starts in the background ignores Ctrl-C, and programs that a test starts would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small matrices are slower on several threads, and sums then depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that a test caches is found by the next run, or by the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    return build_backbone(TINY, seed=0, name="tiny")


@pytest.fixture(scope="session")
def digits() -> ImageDataset:
    return read_dataset("digits")


@pytest.fixture(scope="session")
def split(digits: ImageDataset) -> OpenWorldSplit:
    return split_open_world(digits, shots=4, unseen=3, seed=0)
