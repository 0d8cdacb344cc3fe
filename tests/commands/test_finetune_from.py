"""Going on with a changed table: weights and moments come along, and nothing is measured on that was trained on."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

import clip_fewshot as cf
from tests.commands.conftest import Command, one_line

QUICK = ("--model", "mini", "--passes", 1, "--batch", 8, "--head", "none", "--backbone-lr", 1e-4)
Row = tuple[str, str, str]
Write = Callable[[str, Iterable[Row]], Path]


@pytest.fixture
def pictures(photos: Path) -> list[str]:
    return [str(path.relative_to(photos.parent)) for path in sorted(photos.glob("*/*.png"))]


@pytest.fixture
def write(photos: Path, tmp_path: Path) -> Write:
    def table(name: str, rows: Iterable[Row]) -> Path:
        path = photos.with_name(f"{tmp_path.name}-{name}")
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("image", "caption", "split"), *rows])
        return path

    return table


def row(picture: str, side: str, words: str = "a photo of a") -> Row:
    return picture, f"{words} {Path(picture).parent.name}", side


def sides(run: Path) -> tuple[set[str], set[str]]:
    pairs = json.loads((run / "pairs.json").read_text())
    return set(pairs["training"]), set(pairs["test"])


@pytest.fixture
def first(command: Command, write: Write, pictures: list[str], tmp_path: Path) -> Path:
    """A finished run: 24 pictures to train on, 8 to test."""
    table = write("first.csv", [row(p, "test" if i % 4 == 0 else "train") for i, p in enumerate(pictures[:32])])
    assert command("finetune", table, "--out", tmp_path / "first", *QUICK).code == 0
    return tmp_path / "first"


def test_it_says_what_changed_and_measures_on_what_it_has_not_seen(
    command: Command, write: Write, pictures: list[str], first: Path, tmp_path: Path
) -> None:
    rows = [row(p, "test" if i % 4 == 1 else "train") for i, p in enumerate(pictures[:40])]  # other sides
    rows = [*rows[2:6], row(pictures[6], "train", "now this is a"), *rows[7:]]  # 2 removed, 1 other caption, 8 added
    ended = command("finetune", write("second.csv", rows), "--from", first, "--out", tmp_path / "run", *QUICK, "--json")
    assert ended.code == 0
    told = f"since {first}: 8 pictures added, 2 removed, 1 with other texts, 29 as they were"
    assert told in ended.err
    assert ended.record["changes"] == {"added": 8, "removed": 2, "changed": 1, "same": 29}
    trained, tested = sides(first)
    now_trained, now_tested = sides(tmp_path / "run")
    assert not now_tested & (trained | now_trained)
    assert len(now_tested) == ended.record["pictures"]["test"] == 2  # of the added ones; the old test side learns now
    assert now_trained & tested
    assert {ended.record[name]["image to text, recall@1"]["n_test"] for name in ("before", "earlier", "after")} == {2}
    assert cf.load_backbone(tmp_path / "run" / "model", device="cpu").image_size


def test_what_was_ever_trained_on_is_remembered_over_several_runs(
    command: Command, write: Write, pictures: list[str], first: Path, tmp_path: Path
) -> None:
    without = write("b.csv", [row(p, "test" if i % 4 == 0 else "train") for i, p in enumerate(pictures[:32]) if i != 1])
    assert command("finetune", without, "--from", first, "--out", tmp_path / "b", *QUICK).code == 0
    again = write("c.csv", [row(p, "test" if i % 4 < 2 else "train") for i, p in enumerate(pictures[:32])])
    assert command("finetune", again, "--from", tmp_path / "b", "--out", tmp_path / "c", *QUICK).code == 0
    trained, tested = sides(first)
    assert len(trained - sides(tmp_path / "b")[0]) == 1
    assert sides(tmp_path / "c")[1] == tested


def test_classes_and_their_shots(command: Command, photos: Path, tmp_path: Path) -> None:
    chosen = ("--model", "mini", "--passes", 1, "--held-out", 0.4, "--per-class", 2)
    assert command("finetune", photos, "--out", tmp_path / "a", *chosen).code == 0
    assert command("finetune", photos, "--resume", tmp_path / "a", "--classes-at", 1, *chosen).code == 0
    more = (*chosen, "--seed", 1)  # another seed, other sides
    ended = command("finetune", photos, "--from", tmp_path / "a", "--out", tmp_path / "b", *more, "--json")
    assert ended.code == 0
    assert ended.record["pictures"]["training"] == 14  # K shots stay K shots
    assert not sides(tmp_path / "a")[0] & sides(tmp_path / "b")[1]
    every = (*chosen[:-2], "--seed", 1)
    assert command("finetune", photos, "--from", tmp_path / "b", "--out", tmp_path / "c", *every).code == 0
    before = sides(tmp_path / "a")[0] | sides(tmp_path / "b")[0]
    assert before <= sides(tmp_path / "c")[0]
    assert not before & sides(tmp_path / "c")[1]


def test_a_stopped_run_is_gone_on_from_and_a_run_that_goes_on_is_resumed(
    command: Command, write: Write, pictures: list[str], first: Path, tmp_path: Path
) -> None:
    table = write("more.csv", [row(p, "test" if i % 4 == 0 else "train") for i, p in enumerate(pictures[:40])])
    call = ("finetune", table, "--from", first, *QUICK)
    whole = command(*call, "--out", tmp_path / "whole").out
    assert "before" in whole
    assert "earlier" in whole
    shutil.rmtree(first / "model")  # what a run that was stopped has not
    (first / "results.json").unlink()
    stopped = command(*call, "--out", tmp_path / "again")
    assert (stopped.code, "earlier" in stopped.out) == (0, False)
    weights = [cf.load_backbone(tmp_path / name / "model").state_dict() for name in ("whole", "again")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert command(*call, "--resume", tmp_path / "again").code == 0
    one_line(command("finetune", table, *QUICK, "--resume", tmp_path / "again"), 2, "another from")


def test_mistakes_are_one_line(
    command: Command, write: Write, pictures: list[str], first: Path, tmp_path: Path
) -> None:
    table = write("t.csv", [row(p, "test" if i % 4 == 0 else "train") for i, p in enumerate(pictures[:32])])
    out = ("--out", tmp_path / "run", *QUICK)
    one_line(command("finetune", table, "--from", tmp_path / "nowhere", *out), 2, "a fine-tuning to go on from")
    (tmp_path / "old").mkdir()
    shutil.copy(first / "task.json", tmp_path / "old")
    one_line(command("finetune", table, "--from", tmp_path / "old", *out), 2, "no pairs.json", "--model")
    shutil.copy(first / "pairs.json", tmp_path / "old")
    one_line(command("finetune", table, "--from", tmp_path / "old", *out), 2, "no training/checkpoint")
    ended = command("finetune", table, "--from", first, *out, "--unfreeze", 2, "--head", "linear")
    assert ended.code == 2
    assert "--from" in ended.err.splitlines()[-1]
    assert "unfreeze 1, head none, got unfreeze 2, head linear" in ended.err
    seen = write("seen.csv", [row(p, "train" if i % 4 == 0 else "test") for i, p in enumerate(pictures[:32])])
    ended = command("finetune", seen, "--from", first, *out)
    assert ended.code == 2
    assert "test pictures that it has not trained on" in ended.err
    assert not (tmp_path / "run").exists()
