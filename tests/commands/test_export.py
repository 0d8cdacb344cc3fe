"""A model leaves for another program, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

import clip_fewshot as cf
from tests.commands.conftest import Command, one_line


@pytest.mark.slow
def test_a_backbone_by_its_name(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    ended = command("export", "mini", "--out", tmp_path / "mini.onnx", "--json")
    size = (tmp_path / "mini.onnx").stat().st_size
    differences = ended.record.pop("differences")
    assert ended.record | {"differences": differences} == ended.record | {"differences": differences, "bytes": size}
    assert differences["features"] < 1e-4
    assert "checked at 1, 3, 64 pictures" in command("export", "mini", "--out", tmp_path / "m.onnx").out


def test_a_detector_that_cannot_go_is_named_and_nothing_written(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    split = cf.split_open_world(cf.read_dataset("digits"), shots=4, unseen=3)
    model = cf.FewShotClassifier(cf.load_backbone("mini", device="cpu"), "linear-probe")
    cf.OpenWorldClassifier(model, "lof", alpha=0.1).fit(split.support).save(tmp_path / "model")
    ended = command("export", tmp_path / "model", "--out", tmp_path / "w.onnx")
    one_line(ended, 2, "a detector out of class-mean energy knn", "LOFDetector")
    assert not (tmp_path / "w.onnx").exists()


def test_a_file_that_is_there_stays(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_text("mine")
    ended = command("export", "mini", "--out", tmp_path / "mine.onnx")
    one_line(ended, 4, "--overwrite")
    assert (tmp_path / "mine.onnx").read_text() == "mine"
