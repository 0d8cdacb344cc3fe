"""Results as DataFrames: the same numbers as in the lists."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

import clip_fewshot as cf
from clip_fewshot.contrastive.metrics_log import MetricsLog
from clip_fewshot.evaluation.metrics import per_class_table
from clip_fewshot.runtime.result_rows import ResultRows
from tests.data.pictures import put
from tests.test_architecture import loaded_after


def test_answers(digits: cf.ImageDataset) -> None:
    split = cf.split_open_world(digits.subset(np.arange(300)), shots=4, unseen=3)
    model = cf.FewShotClassifier(cf.load_backbone("mini"), approach="linear-probe")
    world = cf.OpenWorldClassifier(model, detector="knn", alpha=0.2).fit(split.support)
    pictures = split.novel.open("a test").subset(np.arange(40))
    answers = world.predict(pictures, top=2)
    frame = answers.to_frame()
    assert list(frame.columns) == [
        *("image", "answer", "known_by", "p_value", "score"),
        *(f"{what}_{place}" for place in (1, 2) for what in ("class", "probability")),
        "possible",
    ]
    assert tuple(frame.image) == pictures.names
    assert list(frame.answer) == [answer.label or "unknown" for answer in answers]
    assert {"unknown"} < set(frame.answer)
    assert list(frame.p_value) == [answer.p_value for answer in answers]
    assert list(frame.possible) == ["; ".join(answer.possible or ()) for answer in answers]
    assert list(frame.class_2) == [answer.top[1][0] for answer in answers]
    assert isinstance(answers, list)
    assert pickle.loads(pickle.dumps(answers)).to_frame().equals(frame)
    assert world.predict([], top=2).to_frame().empty


def test_a_table_per_class() -> None:
    table = per_class_table([0, 0, 1, 1], [0, 1, 1, 1], 2, ("cat", "dog"))
    expected = {"class": ["cat", "dog"], "precision": [1, 2 / 3], "recall": [0.5, 1], "f1": [2 / 3, 0.8]}
    pandas.testing.assert_frame_equal(table.to_frame(), pandas.DataFrame(expected | {"support": [2, 2]}))
    assert list(per_class_table([0, 1], [0, 1], 2).to_frame()["class"]) == [0, 1]


def test_the_history_of_a_training(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "training", 0)
    log.add("train", 1, {"loss": 2.0})
    log.add("validation", 1, {"recall": 0.5})
    with log.path.open("a") as file:
        file.write('{"step": 2, "ki')
    for folder in (tmp_path, tmp_path / "training"):
        frame = cf.read_history(folder).to_frame()
        assert list(frame.columns) == ["step", "kind", "loss", "recall"]
        assert frame.loss.tolist()[0] == 2.0
        assert np.isnan(frame.loss[1])
    with pytest.raises(cf.DataError, match=r"metrics.jsonl"):
        cf.read_history(tmp_path / "nowhere")
    log.path.write_bytes(b"\xe4")
    with pytest.raises(cf.DataError, match=r"metrics.jsonl:1: expected UTF-8"):
        cf.read_history(tmp_path)
    with pytest.raises(cf.ArtifactError, match="finished trials"):
        cf.list_trials(tmp_path)


def test_rows_are_mappings_too_and_may_be_none() -> None:
    assert ResultRows([{"a": 1}, {"b": 2}], name=["x", "y"]).to_frame().columns.tolist() == ["name", "a", "b"]
    assert ResultRows[dict[str, int]]([]).to_frame().empty


def test_where_pandas_is_not_installed_a_table_says_what_brings_it(
    digits: cf.ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for table in (digits, ResultRows([{"a": 1}])):
        with pytest.raises(cf.ResourceError, match=r"pip install 'clip-fewshot\[pandas\]'"):
            table.to_frame()


def test_pandas_is_loaded_where_it_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 0)
    table = put(tmp_path / "t.csv", "image,label\na.png,x\n")
    assert "pandas" not in loaded_after(f"import clip_fewshot as cf; cf.read_dataset({str(table)!r}); cf.list_trials")
