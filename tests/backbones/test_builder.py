"""Models that the user's own code builds, by "python:MODULE:FUNCTION"."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import clip_fewshot as cf
from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.config import DataOptions
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.protocol.run_folder import choose_folder
from tests.backbones.encoders import pair

PAIR = "python:tests.backbones.encoders:pair"
ROOT = Path(__file__).parent.parent.parent
TOWERS = """
import torch
import clip_fewshot as cf
from clip_fewshot.errors import DataError
from tests.backbones.conftest import openai_model, SMALL
from tests.backbones.encoders import pair

number = 7

def theirs():
    torch.manual_seed(0)
    return openai_model(SMALL["vit"])

def no_model():
    return "ViT-B/32"

def other_module():
    return torch.nn.Linear(2, 2)

def wants(argument):
    return pair()

def breaks():
    raise RuntimeError("no such GPU")

def data():
    raise DataError(expected="weights", got="no file", fix="check the path")

seed = 0

def changing():
    return pair(seed=seed)
"""


@pytest.fixture(autouse=True)
def towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "towers", raising=False)
    (tmp_path / "towers.py").write_text(TOWERS)
    (tmp_path / "unfinished.py").write_text("def")
    (tmp_path / "poor.py").write_text("import no_such_package")


def test_the_model_is_that_of_the_function_under_the_whole_name() -> None:
    built = cf.load_backbone(PAIR, device="cpu")
    assert isinstance(built, PairBackbone)
    assert (built.name, built.digest, built.training) == (PAIR, pair().digest, False)
    theirs = cf.load_backbone("python:towers:theirs", device="cpu")
    assert (theirs.name, theirs.image_size) == ("python:towers:theirs", theirs.config.image_size)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:", "expected python:MODULE:NAME, got 'python:'"),
        ("python:towers", "expected python:MODULE:NAME"),
        ("python:towers:", "expected python:MODULE:NAME"),
        ("python:towers.py:theirs:x", "expected python:MODULE:NAME"),
        ("python:./towers:theirs", "expected python:MODULE:NAME"),
        ("python:no_such_towers:build", "expected a module no_such_towers, got none that Python finds"),
        ("python:towers.parts:build", "expected a module towers.parts, got none that Python finds"),
        ("python:unfinished:build", "expected an import that succeeds, got SyntaxError"),
        ("python:poor:build", "expected an import that succeeds, got ModuleNotFoundError.*no_such_package"),
        ("python:towers:build", "expected build in towers, got none"),
        ("python:towers:number", "expected a function, got a int"),
        ("python:towers:no_model", "expected a function that returns a model, got a str"),
        ("python:towers:wants", "expected a call without arguments .*got TypeError"),
        ("python:towers:breaks", "expected a call without arguments .*got RuntimeError: no such GPU"),
    ],
)
def test_a_mistake_is_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cf.load_backbone(name, device="cpu")


def test_what_is_no_clip_is_refused_and_our_own_errors_pass() -> None:
    with pytest.raises(ArtifactError):
        cf.load_backbone("python:towers:other_module", device="cpu")
    with pytest.raises(cf.DataError, match="check the path"):
        cf.load_backbone("python:towers:data", device="cpu")
    with pytest.raises(UsageError, match="expected one of RN50"):
        cf.load_backbone(PAIR, pretrained=False, device="cpu")


def test_a_saved_classifier_takes_encoders_that_are_passed_and_says_when_they_changed(
    split: cf.OpenWorldSplit, tmp_path: Path
) -> None:
    name = "python:towers:changing"
    classifier = cf.FewShotClassifier(cf.load_backbone(name, device="cpu"), "linear-probe").fit(split.support)
    classifier.save(tmp_path / "saved")
    with pytest.raises(ArtifactError, match="which a file must not import"):
        cf.FewShotClassifier.load(tmp_path / "saved")
    build = sys.modules["towers"].changing  # type: ignore[attr-defined]
    again = cf.FewShotClassifier.load(tmp_path / "saved", trusted={name: build})
    assert (again.predict(split.support) == classifier.predict(split.support)).all()
    sys.modules["towers"].seed = 1  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError, match=f"expected backbone {name} .*with weights"):
        cf.FewShotClassifier.load(tmp_path / "saved", trusted={name: build})


def test_the_folder_of_a_run_is_named_after_it_without_what_a_file_system_refuses() -> None:
    data = DataOptions(data="digits", model=PAIR)
    assert choose_folder(data, None).name == "digits-python-tests.backbones.encoders-pair"


@pytest.mark.slow
def test_from_a_folder_of_ones_own_to_a_prediction(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from tests.backbones.encoders import pair as build\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def command(*words: str) -> str:
        line = [sys.executable, "-m", *words]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    few = ("--shots", "2", "--trials", "2", "--seeds", "1", "--epochs", "1", "--jobs", "2")
    command("experiments.few_shot", "--model", "python:mine:build", *few)
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name == "digits-python-mine-build"
    picture = tmp_path / "seven.png"
    cf.read_dataset("digits").open(7).save(picture)
    named = ("--model", "python:mine:build")
    assert "seven.png" in command("experiments.predict", str(run / "model"), str(picture), *named)
