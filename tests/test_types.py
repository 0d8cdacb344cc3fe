"""What type checkers see of the installed package, in a user's own program, after README's install line."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROGRAM = '''\
"""A user's program: every call has the types that it is annotated with, and the marked lines are wrong."""

from pathlib import Path

import numpy as np

import clip_fewshot as cf


def learn(folder: str, shots: int) -> cf.OpenWorldClassifier:
    photos: cf.ImageDataset = cf.read_dataset(folder)
    split: cf.OpenWorldSplit = cf.split_open_world(photos, shots=shots, unseen=3)
    backbone: cf.Backbone = cf.load_backbone("mini", device="cpu")
    model = cf.FewShotClassifier(backbone, approach="mlp").fit(split.support)
    score: float = model.score(split.test)
    print(f"{score:.3f}")
    return cf.OpenWorldClassifier(model, alpha=0.05).fit(split.support)


def ask(world: cf.OpenWorldClassifier, pictures: list[Path]) -> list[str | None]:
    return [answer.label for answer in world.predict(pictures)]


labels: list[str | None] = ask(learn("photos/", 4), [Path("a.jpg")])
groups: int = cf.discover_classes(np.eye(8, dtype=np.float32)).n_clusters
detector: cf.Detector = cf.LOFDetector(n_neighbors=5)
probe: cf.Probe = cf.LinearProbe()
heads: list[str] = sorted(cf.HEADS)
cf.read_dataset(3)  # WRONG
cf.MLPHead(512)  # WRONG
'''
WRONG = [number for number, line in enumerate(PROGRAM.splitlines(), start=1) if line.endswith("# WRONG")]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment into which README's command has installed a copy of the tree, beside the outer packages."""
    place = tmp_path_factory.mktemp("installed")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / "tree" / name)
    venv.create(place / "venv", with_pip=False)
    python = place / "venv" / "bin" / "python"
    inner = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A path file adds the outer packages and not their own path files: a checkout installed there stays unseen.
    (inner / "outer.pth").write_text(sysconfig.get_path("purelib"))
    line = re.search(r"pip install -c constraints.txt (.*) && python -m", (ROOT / "README.md").read_text("utf-8"))
    assert line is not None
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-build-isolation"]
    run(*pip, *shlex.split(line.group(1)), cwd=place / "tree")
    return python


def run(*command: str | Path, cwd: Path | None = None, code: int = 0) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=280)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.mark.slow
def test_mypy_strict_sees_the_types(python: Path, program: Path) -> None:
    said = run(
        *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", python, program.name),
        cwd=program.parent,
        code=1,
    )
    assert [int(n) for n in re.findall(r"^program.py:(\d+): error", said, flags=re.M)] == WRONG, said
    assert "import-untyped" not in said


@pytest.mark.slow
def test_pyright_sees_the_types(python: Path, program: Path) -> None:
    (program.parent / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    command = (sys.executable, "-m", "basedpyright", "--pythonpath", python, "--level", "error", program.name)
    said = run(*command, cwd=program.parent, code=1)
    assert [int(n) for n in re.findall(r"program.py:(\d+):\d+ - error", said)] == WRONG, said


@pytest.mark.slow
def test_the_marker_and_the_stub_are_installed(python: Path) -> None:
    code = "import clip_fewshot, os; print(os.path.dirname(clip_fewshot.__file__))"
    folder = Path(run(python, "-c", code, cwd=python.parent).strip())
    assert python.parent.parent in folder.parents
    assert {"py.typed", "__init__.pyi"} <= {path.name for path in folder.iterdir()}
