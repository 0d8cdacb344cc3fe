"""What a user installs: the ranges, the pins, the files that travel, and the commands that are promised."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import clip_fewshot as cf
from tests.pyproject import PROJECT

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
RUN = "pip install -c constraints.txt . && python -m experiments.few_shot --trials 50"
ADDRESS = "repository-code: https://example.org/a/b"
TEST = "pip install -c constraints.txt -e '.[dev]' && pytest"


def requirements(
    python: str, extras: tuple[str, ...] = ("dev", "docker", "docs", "postgres", "spark")
) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
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
def test_each_requirement_is_pinned_inside_its_range(python: str) -> None:
    pinned = pins(python)
    for requirement in requirements(python):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} has no pin for Python {python}"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} is tested with {pinned[name]}"


def test_this_environment_is_the_pinned_one() -> None:
    """Else the figures of this run say nothing about the pins. Skipped where others are tried on purpose."""
    here = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    different = {n: version(n) for n in ("torch", "numpy", "scikit-learn") if version(n).split("+")[0] != here[n]}
    if different:
        pytest.skip(f"not the versions of constraints.txt: {different}")


def test_nothing_that_breaks_its_neighbours_is_required() -> None:
    required = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert not required & {"clip", "torchvision", "lightning", "pytorch-lightning", "joblib", "openai-clip", "pyspark"}


def test_everything_comes_from_the_index() -> None:
    """A release whose metadata hold an address is refused there, and "clip" is something else there."""
    everything = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    parsed = [Requirement(line) for lines in everything for line in lines]
    assert not [requirement for requirement in parsed if requirement.url or requirement.name == "clip"]


def test_extras_are_those_of_the_design() -> None:
    wanted = {
        "clip",
        "open-clip",
        "text",
        "hub",
        "photos",
        "pandas",
        "parquet",
        "spark",
        "postgres",
        "tracking",
        "onnx",
        "docker",
        "docs",
        "dev",
    }
    assert set(PROJECT["optional-dependencies"]) == wanted


def test_one_version_everywhere() -> None:
    assert PROJECT["version"] == cf.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == cf.__version__
    assert re.search(rf"^## {re.escape(cf.__version__)}\b", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)


def test_python_versions_agree() -> None:
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.", c)] == list(PYTHONS)
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
def release(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheel and the sdist."""
    return build(tmp_path_factory.mktemp("release"))


def build(place: Path) -> list[Path]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "SOURCE_DATE_EPOCH": "1750000000"}
    subprocess.run([ROOT / ".ci/build", place], env=env, capture_output=True, check=True, timeout=200)
    return sorted(place.iterdir(), key=lambda file: file.suffix, reverse=True)


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def installed(release: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of an environment with the wheel; what it requires is found in this environment."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    (libraries,) = place.glob("[Ll]ib/**/site-packages")
    # A line of a .pth file adds a folder; the .pth files in that folder, those of an editable install, stay asleep.
    (libraries / "outer.pth").write_text("\n".join(dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib")))))
    programs = place / ("Scripts" if os.name == "nt" else "bin")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        programs / "python",
        "install",
        "--no-deps",
        "--no-index",
        release[0],
    ]
    subprocess.run(pip, capture_output=True, check=True, timeout=200)
    return programs


def test_a_wheel_holds_the_package_and_nothing_else(release: list[Path]) -> None:
    with zipfile.ZipFile(release[0]) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == {name for name in tracked() if name.startswith("clip_fewshot/")}


def test_an_sdist_holds_what_its_tests_need_and_no_machines_paths(release: list[Path]) -> None:
    with tarfile.open(release[1]) as archive:
        members = archive.getmembers()
        inside = {member.name.partition("/")[2] for member in members}
        texts = [archive.extractfile(m).read() for m in members if m.name.endswith(("PKG-INFO", "SOURCES.txt"))]  # type: ignore[union-attr]
    kept_back = (".github/", ".ci/", ".pre-commit", ".gitignore", ".dockerignore")
    assert {name for name in tracked() if not name.startswith(kept_back)} <= inside
    assert not any(str(ROOT).encode() in text for text in texts)
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0, 0, "", 1750000000)}


def test_the_same_files_are_built_into_the_same_bytes(release: list[Path], tmp_path: Path) -> None:
    assert [file.read_bytes() for file in build(tmp_path)] == [file.read_bytes() for file in release]


def describe(folder: Path) -> dict[str, Any]:
    """What setup.py of a folder gives to setup()."""
    code = "import json, runpy, setuptools as s; s.setup = lambda **k: print(json.dumps(k)); runpy.run_path('setup.py')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)]+)\)")
CODE = re.compile(r"```.*?```", flags=re.DOTALL)


def test_the_page_on_the_index_points_to_the_files_of_the_release(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "CITATION.cff").write_text('title: x\nrepository-code: "https://example.org/a/b/"\n')
    said = describe(tmp_path)
    found = LINK.findall(said["long_description"])
    own = [(picture, address) for picture, address in found if "example.org" in address]
    assert len(own) == len(LINK.findall((ROOT / "README.md").read_text("utf-8"))) >= 20
    for picture, address in own:
        start = f"https://example.org/a/b/{'raw' if picture else 'blob'}/v{cf.__version__}/"
        assert address.startswith(start)
        assert (ROOT / address.removeprefix(start).partition("#")[0]).exists(), address
    assert all(address.startswith("https://example.org/a/b") for address in said["project_urls"].values())


def test_without_an_address_the_page_has_its_words_and_no_dead_link(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    said = describe(tmp_path)
    assert not LINK.findall(said["long_description"])
    assert not said["project_urls"]
    readme = (ROOT / "README.md").read_text("utf-8")
    assert CODE.findall(said["long_description"]) == CODE.findall(readme)
    assert "[contributing]" in readme
    assert "(contributing)" in said["long_description"]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("", "", "", ""),
        ("CHANGELOG.md", "(2026-01-02)", "(unreleased)", "CHANGELOG.md: nothing fits"),
        ("CITATION.cff", "repository-code", "url", "CITATION.cff: nothing fits"),
        ("CITATION.cff", "/a/b", "/a/fork", "this is https://example.org/a/b"),
        ("CITATION.cff", "version: 0", "version: 9", "CITATION.cff has version 9"),
        ("pyproject.toml", 'version = "0', 'version = "9', "the tag is v0"),
    ],
)
def test_a_release_is_refused_unless_everything_agrees(
    tmp_path: Path, file: str, old: str, new: str, said: str
) -> None:
    for name in (".ci/check_release.py", "pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changes = [("CHANGELOG.md", "(unreleased)", "(2026-01-02)"), ("CITATION.cff", "\ntype:", f"\n{ADDRESS}\ntype:")]
    for name, before, after in [*changes, (file, old, new)]:
        if name:
            text = (tmp_path / name).read_text("utf-8")
            assert before in text
            (tmp_path / name).write_text(text.replace(before, after, 1), "utf-8")
    command = [sys.executable, ".ci/check_release.py", f"v{cf.__version__}", "https://example.org/a/b"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == bool(said)
    assert said in done.stderr
    assert done.stdout.startswith("" if said else "### Added")


def test_only_the_job_that_publishes_may_write_and_it_waits_for_the_others() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    publish = workflow["jobs"]["publish"]
    assert {*publish["needs"]} == {*workflow["jobs"]} - {"publish"}
    assert workflow["permissions"] == {"contents": "read"}
    assert [name for name, job in workflow["jobs"].items() if "permissions" in job] == ["publish"]
    assert (ROOT / workflow["jobs"]["tests"]["uses"]).is_file()
    steps = " ".join(step.get("run", "") for step in workflow["jobs"]["build"]["steps"])
    assert all((ROOT / script).is_file() for script in re.findall(r"\.ci/\S+", steps))


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
