"""A fitted world on a tiny backbone, and pictures for it: known, and of three classes it has never seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.model import encode_frozen, prepare_support
from clip_fewshot.open_world.alternatives import Alternative, NoveltyChoice
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.rejector import fit_rejector
from clip_fewshot.open_world.store.store import Store

MakeWorld = Callable[..., OpenWorldClassifier]


@pytest.fixture(scope="session")
def parted(digits: ImageDataset) -> OpenWorldSplit:
    return split_open_world(digits, shots=6, unseen=["three", "eight", "nine"], seed=0)


@pytest.fixture(scope="session")
def strange(parted: OpenWorldSplit) -> ImageDataset:
    """Pictures of the unseen classes, mixed."""
    novel = parted.novel.open("test of the store")
    return novel.subset(np.random.default_rng(0).permutation(len(novel)))


@pytest.fixture(scope="session")
def familiar(parted: OpenWorldSplit) -> ImageDataset:
    return parted.test.open("test of the store")


@pytest.fixture(scope="session")
def make_world(tiny: Backbone, parted: OpenWorldSplit) -> MakeWorld:
    def make(
        approach: str = "linear-probe", backbone: Backbone = tiny, space: str = "frozen", **options: object
    ) -> OpenWorldClassifier:
        model = FewShotClassifier(backbone, approach, epochs=1, backbone_lr=1e-3, **options)  # type: ignore[arg-type]
        model.fit(parted.support)
        data = prepare_support(backbone, parted.support, [model.point.unfreeze, 1], 1, 0)
        frozen = encode_frozen(data)
        choice = NoveltyChoice(Alternative("lof", space, 3))
        rejector = fit_rejector(backbone, model.recipe_, data, frozen, choice)
        return OpenWorldClassifier.from_fit(model, rejector, 0.1, (frozen, data.labels), parted.support)

    return make


@pytest.fixture
def store(make_world: MakeWorld, tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store", make_world()) as made:
        yield made
