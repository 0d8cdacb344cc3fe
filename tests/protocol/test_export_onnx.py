"""From a classifier to a file that answers without this library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.onnx import run_graph
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import resize_crop
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.errors import ClipFewShotError, UsageError
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.protocol.export_onnx import export_onnx


@pytest.mark.slow
@pytest.mark.parametrize(
    ("approach", "detector"), [("text-prior", "text-margin"), ("linear-probe", "knn"), ("mlp", "auto")]
)
def test_onnxruntime_answers_as_python_does(
    approach: str, detector: str, tiny: Backbone, digits: ImageDataset, tmp_path: Path
) -> None:
    onnx: Any = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    split = split_open_world(digits, shots=6, unseen=["three", "eight"], seed=0)
    options: dict[str, Any] = {"unfreeze": 2, "epochs": 1} if approach == "mlp" else {}
    world = OpenWorldClassifier(FewShotClassifier(tiny, approach, **options), detector).fit(split.support)
    done = export_onnx(world, tmp_path / "world.onnx")
    data = (tmp_path / "world.onnx").read_bytes()
    assert done["bytes"] == len(data)
    assert done["checked"] == [1, 3, 64]
    assert max(done["differences"].values()) < 1e-4
    about = {one.key: json.loads(one.value) for one in onnx.load_from_string(data).metadata_props}
    assert about["classes"] == list(split.support.label_space.names)
    assert about["alpha"] == world.alpha_
    known = set(split.support.digests)
    pictures = split.pool.subset([i for i in range(0, 320, 5) if split.pool.digests[i] not in known])
    answers = world.judge(world.look(pictures))
    squares = np.stack([np.asarray(resize_crop(pictures.open(i), tiny.image_size)) for i in range(len(pictures))])
    found = run_graph(data, squares)
    names = [None, *about["classes"]]
    assert [names[label + 1] for label in found["label"]] == [answer.label for answer in answers]
    np.testing.assert_allclose(found["p_value"], [answer.p_value for answer in answers], rtol=0, atol=1e-4)
    assert {answer.label is None for answer in answers} == {True, False}
    with pytest.raises(ClipFewShotError, match="another file"):
        export_onnx(world, tmp_path / "world.onnx")


def test_what_is_no_model_is_refused_and_nothing_written(tmp_path: Path) -> None:
    model: Any = "mini"
    with pytest.raises(UsageError, match=r"load_backbone\(...\) or a fitted OpenWorldClassifier"):
        export_onnx(model, tmp_path / "mini.onnx")
    assert not list(tmp_path.iterdir())
