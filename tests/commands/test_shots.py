"""Curves over shots: what is collected, and that no run is done twice."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

import clip_fewshot as cf
from clip_fewshot.runtime.files import read_json
from tests.commands.conftest import Command, Ended, one_line

COUNTS = ("--shot-counts", "2", "--shot-counts", "1")
METHODS = ["raw_pixels", "zero_shot", "linear_probe", "text-prior", "mlp"]


@pytest.fixture(scope="module")
def model(tiny: cf.Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    cf.save_backbone(tiny, folder, half=False)
    return folder


def ask(
    command: Command, photos: Path, model: Path, out: Path, *more: object, counts: tuple[str, ...] = COUNTS
) -> Ended:
    small = ("--approaches", "mlp", "--trials", 2, "--seeds", 2, "--epochs", 1, "--model", model, "--out", out)
    return command("shots", photos, *COUNTS, *small, *more)


def test_every_method_at_every_number_of_shots(
    command: Command, photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = ask(command, photos, model, tmp_path)
    assert ended.code == 0
    record = read_json(tmp_path / "shots.json")
    item = record["data"][photos.name]
    assert list(item["methods"]) == sorted(METHODS)  # JSON keys are sorted
    for points in item["methods"].values():
        assert [point["shots"] for point in points] == [1, 2]
        assert all(point["ci95"][0] <= point["mean"] <= point["ci95"][1] for point in points)
    for shots, point in zip((1, 2), item["methods"]["mlp"], strict=True):
        results = read_json(tmp_path / f"{photos.name}-{shots}" / "results.json")
        assert point["mean"] == results["approaches"]["mlp"]["test"]["mean"]
        assert results["dataset"]["unseen"] == []
    table = [line for line in ended.out.splitlines() if line.startswith("|")]
    names = [line.split("|")[1].strip() for line in table[2:]]
    assert names == ["raw pixels", "zero-shot", "frozen probe", "text-prior", "mlp", "chosen in validation"]
    for shots, one in zip((1, 2), item["chosen"], strict=True):
        best = read_json(tmp_path / f"{photos.name}-{shots}" / "results.json")["best"]
        assert (one["approach"], one["mean"]) == (best["approach"], best["test"]["mean"])
    for column in (2, 3):
        assert any("**" in line.split("|")[column] for line in table[2:])
    drawing = (tmp_path / "shots.svg").read_text("utf-8")
    ElementTree.fromstring(drawing)
    assert all(name in drawing for name in [*names[:-1], photos.name, "shots per class"])

    def never(*_: object) -> None:
        raise AssertionError("a complete run was done again")

    with monkeypatch.context() as patch:
        patch.setattr("clip_fewshot.pipeline.run_few_shot", never)
        assert ask(command, photos, model, tmp_path).out == ended.out
        with pytest.raises(AssertionError):  # asked for more: gone on with
            ask(command, photos, model, tmp_path, "--trials", 3)
    changed = cf.load_backbone("mini", device="cpu")
    cf.save_backbone(changed, model)
    one_line(ask(command, photos, model, tmp_path), 2, "begun with other pictures, weights or code")


def test_mistakes_are_one_line_before_anything_runs(
    command: Command, photos: Path, model: Path, tmp_path: Path
) -> None:
    one_line(ask(command, photos, model, tmp_path / "out", "--shot-counts", "0"), 2, "--shot-counts")
    one_line(ask(command, photos, model, tmp_path / "out", "--approaches", "magic"), 2, "approach: expected one of")
    assert not (tmp_path / "out").exists()


def test_own_templates_are_those_of_every_run_and_none_is_done_again(
    command: Command, photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts.txt").write_text("the number {}\n")
    own = ("--templates", tmp_path / "texts.txt")
    ended = ask(command, photos, model, tmp_path / "own", *own)
    assert ended.code == 0
    for shots in (1, 2):
        run = read_json(tmp_path / "own" / f"{photos.name}-{shots}" / "results.json")
        assert run["config"]["template"] == ["the number {}"]
    monkeypatch.setattr("clip_fewshot.pipeline.run_few_shot", None)
    monkeypatch.setenv("HOME", str(photos.parent))  # which earlier releases wrote out
    assert ask(command, photos, model, tmp_path / "own", *own).out == ended.out
    one_line(ask(command, photos, model, tmp_path / "o", "--templates", "opnai"), 2, "--templates: expected one of one")
