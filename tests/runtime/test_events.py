"""One function is told what both trainers measure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clip_fewshot.runtime.events import EventLog, join_board


def test_a_line_each_and_no_number_that_json_has_none_for(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log({"kind": "train", "step": 1, "loss": float("nan"), "note": "überall"})
    log({"kind": "train", "step": 2, "loss": 0.5})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert lines == [
        {"kind": "train", "step": 1, "loss": None, "note": "überall"},
        {"kind": "train", "step": 2, "loss": 0.5},
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_board_gets_numbers_and_the_function_all(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = list[object]()
    tell = join_board(told.append, tmp_path)
    events = [{"kind": "trial", "step": i, "value": value, "state": "COMPLETE"} for i, value in enumerate((0.5, 0.25))]
    for event in [*events, {"kind": "trial", "step": 2, "value": None}]:
        tell(event)
    shown = EventAccumulator(str(tmp_path)).Reload()
    assert shown.Tags()["scalars"] == ["trial/value"]
    assert [(point.step, point.value) for point in shown.Scalars("trial/value")] == [(0, 0.5), (1, 0.25)]
    assert told[:2] == events
