"""What others may read of a run: no address of a database, which can hold a password, and no name of a home folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from clip_fewshot.commands.cli.run import command_line
from clip_fewshot.config import HIDDEN, FewShotConfig
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.search import database
from clip_fewshot.few_shot.search.space import SearchSpace
from clip_fewshot.protocol.run_folder import resume_config
from clip_fewshot.runtime.outputs import shorten_home
from tests.cli.command import fork
from tests.cli.runs import Whole, decided, one_error_line

SECRET = "s3cret"
ADDRESSES = [
    *(f"{kind}://bob:{SECRET}@h/db" for kind in ("postgresql", "postgres", "mysql", "postgresql+psycopg", "redis")),
    f"postgresql://h/db?user=bob&password={SECRET}",
    f"postgresql://?host=h&password={SECRET}",
    f"postgresql://bob@h/db?sslpassword={SECRET}&sslmode=require",
    f"postgresql://bob:%73{SECRET}@h/db",
    f"postgresql://:{SECRET}@/db",
    f"postgresql://bob:{SECRET}@[::1",
    f"postgresql//bob:{SECRET}@h",
    f"host=h user=bob password={SECRET}",
    f"password='{SECRET}' host=h",
    f"sqlite:////tmp/{SECRET}.db",
    SECRET,
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_form_of_an_address_is_written_down(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = FewShotConfig.of(storage=address)
    assert SECRET not in json.dumps(config.to_json())
    assert config.to_json()["storage"] == HIDDEN
    for words in (["--storage", address], [f"--storage={address}"]):
        monkeypatch.setattr(sys, "argv", ["few_shot.py", "digits", *words, "--trials", "9"])
        assert SECRET not in command_line()
        assert command_line().endswith("--trials 9")
    (tmp_path / "run.json").write_text(json.dumps({"key": {}, "config": config.to_json()}))
    with pytest.raises(UsageError, match="give `storage` again"):
        resume_config(FewShotConfig.of(resume=str(tmp_path)))
    again = resume_config(FewShotConfig.of(resume=str(tmp_path), storage="sqlite:///other.db"))
    assert again.run.storage == "sqlite:///other.db"


@pytest.mark.parametrize("address", [one for one in ADDRESSES if "://" not in one or "[::1" in one])
def test_what_is_no_address_is_refused_without_being_repeated(address: str) -> None:
    with (
        pytest.raises(UsageError, match="postgresql://user@host/database") as refused,
        database.open_shared_study(address, "study", "", SearchSpace((), 0)),
    ):
        pass
    assert SECRET not in str(refused.value)


def test_a_run_says_neither_its_database_nor_whose_it_is(whole: Whole, options: list[str], tmp_path: Path) -> None:
    home, streams = tmp_path / "alice", tmp_path / "streams"
    shutil.copytree(options[1], home / "photos")
    words = ["--data", home / "photos", *options[2:], "--out", home / "run"]
    storage = f"sqlite:///{home}/{SECRET}.db"
    ended = fork(streams, "few_shot", *words, "--storage", storage, env={"HOME": str(home)}).wait()
    assert ended.code == 0, ended.err
    for path in (home / "run").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    for name in ("results.json", "report.html"):
        text = (home / "run" / name).read_text()
        assert "alice" not in text
        assert f"~{os.sep}photos" in text
    assert json.loads((home / "run/run.json").read_text())["config"]["data"] == str(home / "photos")  # to go on with
    refused = fork(streams, "few_shot", "--resume", home / "run", env={"HOME": str(home)}).wait()
    assert refused.code == 2
    assert "--storage" in one_error_line(refused)
    resumed = ("--resume", home / "run", "--storage", storage)
    assert fork(streams, "few_shot", *resumed, env={"HOME": str(home)}).wait().code == 0
    assert decided(home / "run").keys() == decided(whole.out).keys()


@pytest.mark.parametrize("home", ["/", "", "~", "/home/alice"])
def test_only_what_lies_in_the_home_folder_is_shortened(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    found = {"/home/alice/a": ["/home/alice/b", ("/home/alicent/c", 1.5, None)], "text": "see /home/alice/d and /x"}
    kept = {"/home/alice/a": ["/home/alice/b", ["/home/alicent/c", 1.5, None]], "text": found["text"]}
    short = {"~/a": ["~/b", ["/home/alicent/c", 1.5, None]], "text": "see ~/d and /x"}
    assert shorten_home(found) == (short if home == "/home/alice" else kept)
