"""Labelled pictures in the forms that other tools import: COCO, CSV, Label Studio's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from clip_fewshot.report.tables import format_csv

LABEL_STUDIO_FILES = "/data/local-files/?d="  # how its server addresses what lies in its document root


class LabelledFile(NamedTuple):
    """One picture as a tool is given it.

    Attributes:
        file: its path from the folder of the pictures, with slashes. digest: SHA-256 of the file.
        p_value: share of known pictures at least as strange, in (0, 1].
    """

    file: str
    label: str
    p_value: float
    digest: str


def format_label_csv(pictures: Sequence[LabelledFile]) -> str:
    """Columns image, label, p_value, digest. No mark for Excel stands in front: FiftyOne takes it for the name."""
    return format_csv([["image", *LabelledFile._fields[1:]], *(list(map(str, one)) for one in pictures)])


def make_coco(pictures: Sequence[LabelledFile], sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """A box around each picture, because tools read no annotation without one.

    Args:
        sizes: (width, height) in pixels.
    """
    numbers = {label: i for i, label in enumerate(sorted({one.label for one in pictures}), start=1)}
    images, annotations = [], []
    for i, (one, (width, height)) in enumerate(zip(pictures, sizes, strict=True), start=1):
        images.append({"id": i, "file_name": one.file, "width": width, "height": height, "digest": one.digest})
        box = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0, "segmentation": []}
        said = {"attributes": {"p_value": one.p_value}}
        annotations.append({"id": i, "image_id": i, "category_id": numbers[one.label], **box, **said})
    categories = [{"id": i, "name": label, "supercategory": ""} for label, i in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def make_tasks(pictures: Sequence[LabelledFile], version: str) -> list[dict[str, Any]]:
    """Label Studio's tasks with the label as a prediction, to be taken or changed.

    Args:
        version: what Label Studio calls the model that predicted.
    """
    return [
        {
            "data": {"image": LABEL_STUDIO_FILES + quote(one.file), "file": one.file, "digest": one.digest},
            "predictions": [{"model_version": version, "score": one.p_value, "result": [_choice(one.label)]}],
        }
        for one in pictures
    ]


def _choice(label: str) -> dict[str, Any]:
    return {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
