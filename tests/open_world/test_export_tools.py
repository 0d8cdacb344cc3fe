"""What leaves a store is opened by the tools' own code, where it is installed, and what they write comes back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clip_fewshot.data.decided_labels import read_decided_labels
from tests.open_world.conftest import Bench

Said = Callable[..., Any]
CONFIG = """<View><Image name="image" value="$image"/><Choices name="choice" toName="image">{}</Choices></View>"""


def test_cvat_reads_coco_and_folders(bench: Bench, filled: Path, tmp_path: Path, said: Said) -> None:
    """By datumaro, which CVAT imports with."""
    datumaro = pytest.importorskip("datumaro", exc_type=ImportError)
    said("export", filled, "--out", tmp_path / "groups.json")
    said("export", filled, "--out", tmp_path / "groups")
    coco = json.loads((tmp_path / "groups.json").read_text())
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    shutil.copy(tmp_path / "groups.json", tmp_path / "coco" / "annotations" / "instances_default.json")
    shutil.copytree(bench.strange, tmp_path / "coco" / "images" / "default")
    shutil.copytree(tmp_path / "groups", tmp_path / "zipped", ignore=shutil.ignore_patterns(".*"))  # zip -r FILE */
    for place, form in (("coco", "coco"), ("zipped", "imagenet")):
        read = datumaro.Dataset.import_from(str(tmp_path / place), form)
        names = [one.name for one in read.categories()[datumaro.AnnotationType.label]]
        assert sorted(names) == sorted(one["name"] for one in coco["categories"])
        assert len(read) == len(coco["images"])
        assert all(len(one.annotations) == 1 for one in read)


def test_label_studio_reads_tasks_and_its_exports_come_back(filled: Path, tmp_path: Path, said: Said) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface", exc_type=ImportError)
    converter = pytest.importorskip("label_studio_sdk.converter", exc_type=ImportError)
    said("export", filled, "--out", tmp_path / "tasks.json", "--to", "label-studio")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    labels = {task["data"]["digest"]: task["predictions"][0]["result"][0]["value"]["choices"][0] for task in tasks}
    config = CONFIG.format("".join(f'<Choice value="{label}"/>' for label in sorted({*labels.values()})))
    checked = interface.LabelInterface(config)
    assert all(checked.validate_prediction(task["predictions"][0]) for task in tasks)
    for i, task in enumerate(tasks):
        task |= {"id": i, "annotations": [{"id": i, "result": task["predictions"][0]["result"], "completed_by": 1}]}
    exported = tmp_path / "export.json"
    exported.write_text(json.dumps(tasks))
    tool = converter.Converter(config, str(tmp_path))
    tool.convert_to_csv(str(exported), str(tmp_path / "csv"), is_dir=False, sep=",")
    tool.convert_to_json_min(str(exported), str(tmp_path / "min"), is_dir=False)
    for place in (exported, *(tmp_path / "csv").glob("*.csv"), *(tmp_path / "min").glob("*.json")):
        assert read_decided_labels(place) == labels
