"""What a user installs: the ranges, the pins, the files that travel, and the commands that are promised."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
import zipfile
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import clip_fewshot as cf

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
RUN = "pip install -c constraints.txt . && python -m experiments.few_shot --trials 50"
TEST = "pip install -c constraints.txt -e '.[dev]' && pytest"


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    """The arguments that setup.py gives to setup()."""
    code = "import json, runpy, setuptools as s; s.setup = lambda **k: print(json.dumps(k)); runpy.run_path('setup.py')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def requirements(
    metadata: dict[str, Any], python: str, extras: tuple[str, ...] = ("dev", "docker", "docs", "postgres", "spark")
) -> list[Requirement]:
    lines = [*metadata["install_requires"], *(line for extra in extras for line in metadata["extras_require"][extra])]
    parsed = [Requirement(line) for line in lines]
    return [r for r in parsed if r.marker is None or r.marker.evaluate({"python_version": python})]


def pins(python: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        (specifier,) = pin.specifier
        assert specifier.operator == "==", f"{line}: a constraint is an exact version"
        assert "+" not in specifier.version, f"{line}: a local build is to be had on one machine only"
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            assert pin.name not in found, f"{pin.name} pinned twice for Python {python}"
            found[canonicalize_name(pin.name)] = specifier.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_each_requirement_is_pinned_inside_its_range(metadata: dict[str, Any], python: str) -> None:
    pinned = pins(python)
    for requirement in requirements(metadata, python):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} has no pin for Python {python}"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} is tested with {pinned[name]}"


def test_this_environment_is_the_pinned_one() -> None:
    """Else the figures of this run say nothing about the pins. Skipped where others are tried on purpose."""
    here = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    different = {n: version(n) for n in ("torch", "numpy", "scikit-learn") if version(n).split("+")[0] != here[n]}
    if different:
        pytest.skip(f"not the versions of constraints.txt: {different}")


def test_nothing_that_breaks_its_neighbours_is_required(metadata: dict[str, Any]) -> None:
    required = {canonicalize_name(Requirement(line).name) for line in metadata["install_requires"]}
    assert not required & {"clip", "torchvision", "lightning", "pytorch-lightning", "joblib", "openai-clip", "pyspark"}
    everything = [line for lines in metadata["extras_require"].values() for line in lines]
    named_clip = [line for line in everything if canonicalize_name(Requirement(line).name) == "clip"]
    assert all(Requirement(line).url for line in named_clip)  # "clip" on the package index is something else


def test_extras_are_those_of_the_design(metadata: dict[str, Any]) -> None:
    wanted = {
        "clip",
        "open-clip",
        "text",
        "hub",
        "photos",
        "parquet",
        "spark",
        "postgres",
        "tracking",
        "docker",
        "docs",
        "dev",
    }
    assert set(metadata["extras_require"]) == wanted


def test_every_module_belongs_to_a_package_that_is_shipped(metadata: dict[str, Any]) -> None:
    files = (ROOT / "clip_fewshot").rglob("*.py")
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in files}
    assert folders == set(metadata["packages"]), "a folder without __init__.py, or one that is not ours alone"


def test_every_data_file_is_shipped(metadata: dict[str, Any]) -> None:
    for path in sorted((ROOT / "clip_fewshot").rglob("*")):
        if path.is_dir() or path.suffix in (".py", ".pyc") or path.name.startswith("."):
            continue
        assert any(
            fnmatch(path.relative_to(folder).as_posix(), pattern)
            for package, patterns in metadata["package_data"].items()
            if (folder := ROOT / package.replace(".", "/")) in path.parents
            for pattern in patterns
        ), f"{path.relative_to(ROOT)} stays behind"


def test_one_version_everywhere(metadata: dict[str, Any]) -> None:
    assert metadata["version"] == cf.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == cf.__version__
    assert re.search(rf"^## {re.escape(cf.__version__)}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)


def test_python_versions_agree(metadata: dict[str, Any]) -> None:
    assert metadata["python_requires"] == ">=3.10,<3.14"
    assert [c.rsplit(" ", 1)[1] for c in metadata["classifiers"] if re.search(r"Python :: 3\.", c)] == list(PYTHONS)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == list(PYTHONS)


def test_the_commands_of_the_readme_are_the_tested_ones() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    for command in (RUN, TEST):
        assert command in readme
        assert command in workflow
    assert TEST.split(" && ", maxsplit=1)[0] in (ROOT / ".ci/run").read_text().replace(" --quiet", "")


def test_ci_script_is_sound_and_ends_with_pytest() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).returncode == 0
    lines = script.read_text().strip().splitlines()
    assert "set -euo pipefail" in lines
    assert lines[-1].startswith("pytest ")


def test_hooks_are_local_and_name_files_that_exist() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local"  # a hook from elsewhere would be another version than CI's
    for hook in repository["hooks"]:
        paths = [word for word in shlex.split(hook["entry"]) if "/" in word]
        assert all((ROOT / path).is_file() for path in paths), hook["id"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the files that git has, so that nothing of an earlier build is in it."""
    place = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "tree" / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", place, place / "tree"]
    subprocess.run(build, capture_output=True, check=True, timeout=200)
    (built,) = place.glob("*.whl")
    return built


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Folder of the programs of an environment with the wheel; what it requires is found in this environment."""
    place = wheel.parent / "environment"
    venv.create(place, with_pip=False)
    (libraries,) = place.glob("[Ll]ib/**/site-packages")
    # A line of a .pth file adds a folder; the .pth files in that folder, those of an editable install, stay asleep.
    (libraries / "outer.pth").write_text("\n".join(dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib")))))
    programs = place / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, capture_output=True, check=True, timeout=200)
    return programs


def test_a_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == {name for name in tracked() if name.startswith("clip_fewshot/")}


@pytest.mark.parametrize("package", [False, True], ids=["a plain folder", "a package"])
def test_a_users_own_experiments_and_ours_run_side_by_side(installed: Path, tmp_path: Path, package: bool) -> None:
    own = tmp_path / "experiments"
    own.mkdir()
    (own / "few_shot.py").write_text("import clip_fewshot\nfrom experiments import mine\nprint(mine.NAME)\n")
    (own / "mine.py").write_text("NAME = 'my own'\n")
    if package:
        (own / "__init__.py").touch()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def say(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert say(installed / "python", "-m", "experiments.few_shot") == "my own\n"
    assert say(installed / "clip-fewshot", "--version") == f"clip-fewshot {cf.__version__}\n"
    said = say(installed / "clip-fewshot", "zero-shot", "digits", "--model", "mini") if package else "digits"
    assert said.startswith("digits")
    assert say(installed / "python", "-m", "clip_fewshot", "few-shot", "--help").startswith("usage: python -m clip_few")
