"""How pictures on disk are read is said in the same words to every command that takes DATA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import clip_fewshot as cf
from clip_fewshot.config import FewShotConfig, ReadingOptions
from clip_fewshot.protocol.run_folder import resume_config, study_name
from tests.commands.conftest import Command, one_line
from tests.commands.test_commands import OURS, names_of

SIDES = {"train": slice(0, 10), "test": slice(10, 14)}
NAMES = ("zero", "one", "two")


@pytest.fixture
def project(photos: Path, tmp_path: Path) -> Path:
    """The first source's tree, of digits: two lists in data/, whose paths start from the folder above it."""
    for side, chosen in SIDES.items():
        lines = []
        for name in NAMES:
            folder = tmp_path / "data" / "HYM" / side / name
            folder.mkdir(parents=True)
            for path in sorted((photos / name).iterdir())[chosen]:
                shutil.copy(path, folder)
                lines.append(f"data/HYM/{side}/{name}/{path.name} {name}\n")
        (tmp_path / "data" / f"HYM_{side}.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def away(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the lists in a folder from which their pictures cannot be found."""
    folder = tmp_path_factory.mktemp("away")
    for path in (project / "data").glob("*.txt"):
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("name", [name for name in OURS if {"data", "sets"} & names_of(OURS[name])])
def test_every_command_that_takes_data_takes_them(name: str) -> None:
    assert set(ReadingOptions.__dataclass_fields__) <= names_of(OURS[name])


def test_the_first_source_from_its_own_folder(command: Command, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    ended = command("zero_shot", "data/HYM_test.txt", "--model", "mini", "--json")
    assert ended.code == 0
    assert ended.record["accuracy"]["n_test"] == 12
    assert ended.err == f"warning: the paths in HYM_test.txt start from {project}\n"


SIDED = {
    "zero_shot": lambda found: found["accuracy"]["n_test"],
    "linear_probe": lambda found: found["models"][-1]["accuracy"]["n_test"],
    "finetune": lambda found: found["pictures"]["test"],
    "retrieve": lambda found: found["candidates"],
    "modality_gap": lambda found: found["models"]["before"]["n_images"],
    "few_shot": lambda found: found["dataset"]["counts"]["test"],
}
NEEDED = {
    "linear_probe": ("--shots", 4, "--seeds", 2),
    "finetune": ("--passes", 1, "--out", "tuned"),
    "retrieve": ("--text", "a zero"),
    "modality_gap": ("--out", "gap"),
    "few_shot": ("--shots", 2, "--trials", 1, "--seeds", 1, "--approaches", "mlp", "--epochs", 1, "--out", "run"),
}


@pytest.mark.parametrize("name", SIDED)
def test_a_second_list_is_the_test_side(
    name: str, command: Command, away: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(away)
    words = (name, "HYM_train.txt", "--test", "HYM_test.txt", "--model", "mini", "--json", *NEEDED.get(name, ()))
    one_line(command(*words), 2, "no file data/HYM/train/zero", "(--root)")
    ended = command(*words, "--root", project)
    assert ended.code == 0, ended.err
    assert SIDED[name](ended.record) == 12


def test_columns_are_named_by_what_they_say(command: Command, project: Path) -> None:
    rows = [line.split() for line in (project / "data" / "HYM_test.txt").read_text().splitlines()]
    table = project / "t.csv"
    table.write_text("a,b,c\n" + "".join(f"x,{path},{label}\n" for path, label in rows))
    words = ("zero_shot", table, "--model", "mini", "--json")
    one_line(command(*words), 2, "columns 'a', 'b', 'c'", "--columns")
    for typed in (("--columns", "image=b,label=c"), ("--columns", "image=b", "--columns", "label=c")):
        ended = command(*words, *typed)
        assert ended.code == 0
        assert ended.record["accuracy"]["n_test"] == 12
    one_line(command(*words, "--columns", "b"), 2, "--columns: expected ROLE=COLUMN, got 'b'")
    one_line(command(*words, "--columns", "image=d"), 2, "expected a column 'd'")
    one_line(command(*words, "--columns", "picture=b"), 2, "expected one of image, label, caption, split")
    one_line(command(*words, "--format", "list"), 2, "t.csv:1")


def test_a_run_remembers_how_its_pictures_were_read(project: Path, tmp_path: Path, mini: cf.Backbone) -> None:
    plain = FewShotConfig.of(data="x", out=str(tmp_path))
    asked = FewShotConfig.of(data="x", root="r", test="t", columns=("image=b",), out=str(tmp_path))
    assert not plain.to_json().keys() & ReadingOptions.__dataclass_fields__.keys()  # as in runs of before
    for config in (plain, asked):
        record = json.loads(json.dumps(config.to_json()))
        assert FewShotConfig.from_json(record) == config
        (tmp_path / "run.json").write_text(json.dumps({"config": record}))
        resumed = resume_config(FewShotConfig.of(resume=str(tmp_path)))
        assert resumed.data == config.data
    with pytest.raises(cf.UsageError, match="`root`"):
        resume_config(FewShotConfig.of(resume=str(tmp_path), root="elsewhere"))
    pool = cf.read_dataset(project / "data" / "HYM_train.txt")
    assert study_name(plain, pool, mini) == study_name(asked, pool, mini)  # wherever the pictures lie
