"""Answers block by block, and what a kill leaves of their file."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import clip_fewshot as cf
from clip_fewshot.protocol import answer_pictures as steps


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_a_stopped_run_has_answered_stands_beside_and_the_next_run_begins_anew(
    suffix: str, tmp_path: Path
) -> None:
    out = tmp_path / f"answers{suffix}"
    first = {"image": "a.png", "answer": "zero", "doubt": 0.5}
    second = {"image": "b,.png", "answer": "one", "doubt": None}

    def stopped() -> None:
        with steps.write_answers(out) as add:
            add([first])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert not out.exists()
    assert "a.png" in out.with_name(f"{out.name}.part").read_text()
    steps.check_answer_file(out, False, None)
    with steps.write_answers(out) as add:
        add([second])
        add([first])
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    lines = {
        ".csv": ["image,answer,doubt", '"b,.png",one,', "a.png,zero,0.5"],
        ".jsonl": [
            '{"image": "b,.png", "answer": "one", "doubt": null}',
            '{"image": "a.png", "answer": "zero", "doubt": 0.5}',
        ],
    }
    assert out.read_text("utf-8-sig").splitlines() == lines[suffix]


def test_a_part_file_of_the_users_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "answers.csv.part").write_text("a part of my own")
    with pytest.raises(cf.ResourceError, match="another file"):
        steps.check_answer_file(tmp_path / "answers.csv", False, None)


@pytest.mark.parametrize("name", ["answers.csv", "answers.jsonl"])
def test_a_second_run_into_one_file_is_refused(name: str, tmp_path: Path) -> None:
    out, row = tmp_path / name, {"image": "a.png", "answer": "zero"}
    with steps.write_answers(out) as add:
        add([row])
        with pytest.raises(cf.ResourceError, match="another process"), steps.write_answers(out):
            pass
        add([row])
    assert out.read_text().count("a.png") == 2
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_no_name_is_a_formula_for_excel(tmp_path: Path) -> None:
    row = {
        "image": "=1+cmd|'/c calc'!a.png",
        "answer": '=HYPERLINK("x")',
        "class_1": "@SUM(1)",
        "class_2": "-1",
        "p": -0.5,
    }
    with steps.write_answers(tmp_path / "a.csv") as add:
        add([row])
    with steps.write_answers(tmp_path / "a.jsonl") as add:
        add([row])
    _, cells = csv.reader((tmp_path / "a.csv").read_text("utf-8-sig").splitlines())
    assert cells == [f"./{row['image']}", f"'{row['answer']}", "'@SUM(1)", "-1", "-0.5"]
    assert json.loads((tmp_path / "a.jsonl").read_text()) == row
