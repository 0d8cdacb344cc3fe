"""Label Studio's tasks, and the boxes of tools that know no classes of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clip_fewshot.data.read import read_dataset
from clip_fewshot.errors import DataError
from tests.data.pictures import put


def task(image: str, *choices: str, cancelled: bool = False) -> dict[str, Any]:
    result = [{"type": "choices", "value": {"choices": [choice]}} for choice in choices]
    said = {"result": result, "was_cancelled": cancelled}
    return {"id": 1, "data": {"image": f"/data/local-files/?d={image}"}, "annotations": [said]}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, name in enumerate(("a b.png", "c.png", "d.png")):
        put(tmp_path / name, i)
    return tmp_path


def test_tasks_are_pictures_with_classes(photos: Path) -> None:
    tasks = [task("a%20b.png", "cat"), task("c.png", "dog", "dog"), task("d.png", "cat")]
    (photos / "project.json").write_text(json.dumps(tasks))
    found = read_dataset(photos / "project.json")
    assert dict(zip(found.names, found.label_space.decode(found.required_labels()), strict=True)) == {
        "a b.png": "cat",
        "c.png": "dog",
        "d.png": "cat",
    }


def test_two_annotators_that_differ_are_named(photos: Path) -> None:
    (photos / "project.json").write_text(json.dumps([task("c.png", "cat"), task("d.png", "dog", "cat")]))
    with pytest.raises(DataError, match=r"project\.json:\[1\]: 2 choices"):
        read_dataset(photos / "project.json")


@pytest.mark.parametrize(("box", "whole"), [([0, 0, 8, 8], True), ([0, 0, 7.4, 8], True), ([0, 0, 6, 8], False)])
def test_a_box_around_the_whole_picture_is_its_class(photos: Path, box: list[float], whole: bool) -> None:
    images = [{"id": i, "file_name": name, "width": 8, "height": 8} for i, name in enumerate(("c.png", "d.png"))]
    said = [{"id": i, "image_id": i, "category_id": i, "bbox": box, "segmentation": []} for i in range(2)]
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    content = {"images": images, "annotations": said, "categories": categories}
    (photos / "coco.json").write_text(json.dumps(content))
    if whole:
        assert read_dataset(photos / "coco.json").label_space.names == ("cat", "dog")
    else:
        with pytest.raises(DataError, match="boxes"):
            read_dataset(photos / "coco.json")
