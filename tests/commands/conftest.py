"""A folder of digit pictures, models trained on some of them, and a way to run a command inside this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.backbones import download
from clip_fewshot.commands import COMMANDS
from clip_fewshot.commands.cli.run import run
from tests.cli.command import drop_progress

KNOWN = ("zero", "one", "two", "three", "four")
UNKNOWN = ("six", "seven")
PER_CLASS, SHOTS = 16, 4


class Ended(NamedTuple):
    """Exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Ended]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """``command("predict", "model", "a.png")``: what the command line would do, without a new process."""

    def call(name: str, *argv: object) -> Ended:
        house = "clip_fewshot.commands" if name in COMMANDS else "experiments"
        module = import_module(f"{house}.{name}")
        capsys.readouterr()
        try:
            code = run(module.main, module.Options, name, module.DESCRIPTION, [str(item) for item in argv])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Ended(code, out, drop_progress(err))

    return call


@pytest.fixture(scope="session")
def photos(digits: cf.ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 pictures of each of seven digits, a folder per class."""
    root = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(digits.label_space.names):
        if name not in KNOWN + UNKNOWN:
            continue
        (root / name).mkdir()
        for i in np.flatnonzero(digits.required_labels() == label)[:PER_CLASS]:
            digits.open(int(i)).save(root / name / f"{int(i):04d}.png")
    return root


@pytest.fixture(scope="session")
def split(photos: Path) -> Any:
    return cf.split_open_world(cf.read_dataset(photos), shots=SHOTS, unseen=list(UNKNOWN), seed=0)


@pytest.fixture(scope="session")
def mini() -> cf.Backbone:
    return cf.load_backbone("mini", device="cpu")


@pytest.fixture(scope="session")
def world(mini: cf.Backbone, split: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that can say unknown: the frozen probe on four shots of five digits."""
    folder = tmp_path_factory.mktemp("saved") / "world"
    classifier = cf.FewShotClassifier(mini, approach="linear-probe", seed=0)
    cf.OpenWorldClassifier(classifier, alpha=0.1).fit(split.support).save(folder)
    return folder


@pytest.fixture(scope="session")
def bare(mini: cf.Backbone, split: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a detector."""
    folder = tmp_path_factory.mktemp("saved") / "bare"
    cf.FewShotClassifier(mini, approach="linear-probe", seed=0).fit(split.support).save(folder)
    return folder


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights on this machine, and a hub that does not answer."""
    monkeypatch.setattr(download, "SOURCE", "http://127.0.0.1:9")
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path / "cache"))


def one_line(ended: Ended, code: int, *words: str) -> None:
    """The command ended with ``code``, and said why in one line."""
    assert ended.code == code, ended
    assert ended.out == ""
    assert ended.err.count("\n") == 1, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err
