"""The dataset as a value: its parts, its smaller label spaces, and pictures that changed under it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.data.picture_kinds import ImageError
from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DataError, UsageError
from tests.data.pictures import class_folders, put


def test_a_subset_keeps_every_column_in_the_order_asked(tmp_path: Path) -> None:
    dataset = read_dataset(class_folders(tmp_path, {"a1": 2, "b1": 2, "c1": 2}))
    part = dataset.subset(np.array([5, 0, 2]))
    assert part.names == ("c1/001.png", "a1/000.png", "b1/000.png")
    assert part.required_labels().tolist() == [2, 0, 1]
    assert part.digests == (dataset.digests[5], dataset.digests[0], dataset.digests[2])
    assert part.label_space is dataset.label_space
    assert len(dataset.subset(np.array([], np.int64))) == 0


def test_restricting_relabels_into_the_smaller_space(tmp_path: Path) -> None:
    dataset = read_dataset(class_folders(tmp_path, {"a1": 2, "b1": 1, "c1": 2}))
    part = dataset.restrict(["c1", "a1"])
    assert part.label_space.names == ("a1", "c1")
    assert part.required_labels().tolist() == [0, 0, 1, 1]
    assert part.names == ("a1/000.png", "a1/001.png", "c1/000.png", "c1/001.png")
    assert len(dataset.restrict([])) == 0
    with pytest.raises(UsageError, match="spelling"):
        dataset.restrict(["d1"])


def test_columns_must_have_one_length(tmp_path: Path) -> None:
    dataset = read_dataset(class_folders(tmp_path, {"a1": 2}))
    with pytest.raises(UsageError, match="one length"):
        replace(dataset, names=("only one",))


def test_a_picture_changed_after_reading_is_refused(tmp_path: Path) -> None:
    dataset = read_dataset(class_folders(tmp_path, {"a1": 2}))
    put(tmp_path / "a1" / "000.png", 40)
    with pytest.raises(DataError, match="other content"):
        dataset.open(0)
    (tmp_path / "a1" / "001.png").unlink()
    with pytest.raises(ImageError, match="no such file"):
        dataset.open(1)


def test_the_printed_form_is_short(tmp_path: Path) -> None:
    dataset = read_dataset(class_folders(tmp_path / "insects", {"a1": 2, "b1": 1}))
    assert repr(dataset) == "ImageDataset('insects', 3 images, 2 classes)"
