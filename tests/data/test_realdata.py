"""Real photo collections, where a folder of them is at hand (``CLIP_FEWSHOT_REALDATA``)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import split_open_world

ROOT = Path(os.environ.get("CLIP_FEWSHOT_REALDATA", ""))
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not os.environ.get("CLIP_FEWSHOT_REALDATA"), reason="CLIP_FEWSHOT_REALDATA names no folder"),
]


@pytest.mark.parametrize(
    ("name", "train", "test", "classes"), [("hymenoptera", 245, 153, 2), ("caltech101_20", 480, 240, 20)]
)
def test_photos_in_train_and_test_folders(name: str, train: int, test: int, classes: int) -> None:
    dataset = read_dataset(ROOT / name)
    assert dataset.skipped == ()
    assert (dataset.partition.count("train"), dataset.partition.count("test")) == (train, test)
    assert len(dataset.label_space) == classes
    split = split_open_world(dataset, shots=8, unseen=classes // 4)
    assert len(split.support) == 8 * (classes - classes // 4)
    assert len(split.pool) + split.test.n + split.novel.n == len(dataset)


def test_a_table_of_captions_beside_its_pictures() -> None:
    dataset = read_dataset(ROOT / "flickr8k_1k" / "captions.csv")
    assert len(dataset) == 5000
    assert len(set(dataset.digests)) == 1000
    assert dataset.captions is not None
    assert dataset.captions[1] == "A girl going into a wooden building ."
