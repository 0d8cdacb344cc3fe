"""``in_docker``: the docker SDK and the docker command, both real, talk to a fake engine that records what they ask."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

import clip_fewshot as cf
from experiments.in_docker import BUILD, Options, container_arguments, docker_run_line, main, plan
from tests.fake_engine import FakeEngine

ROOT = Path(__file__).parent.parent


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: photos, a list file, a run, and folders whose names mean something else to an experiment."""
    for name in ("photos/cat", "old photos, best", "lists", "50", "digits", "runs/first"):
        (tmp_path / "home" / name).mkdir(parents=True)
    (tmp_path / "home/lists/train.txt").write_text("a.jpg cat\n")
    (tmp_path / "home/photos/a.jpg").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("CLIP_FEWSHOT_CACHE", str(tmp_path / "weights"))
    return tmp_path / "home"


def planned(*arguments: str) -> tuple[list[str], list[tuple[str, str, bool]]]:
    """The experiment's arguments, and the mounts besides runs and weights."""
    job = plan(Options("few_shot", arguments))
    return list(job.command[1:]), [tuple(mount) for mount in job.mounts[2:]]


def test_runs_weights_and_user_are_the_hosts_own(here: Path) -> None:
    job = plan(Options("few_shot"))
    assert job.command == ("experiments.few_shot",)
    assert [tuple(mount) for mount in job.mounts] == [
        (str(here / "runs"), "/app/runs", False),
        (str(here.parent / "weights"), "/cache", False),
    ]
    assert (here.parent / "weights").is_dir()  # made here: the engine would make it as root
    assert job.user == f"{os.getuid()}:{os.getgid()}"


@pytest.mark.parametrize("arguments", [("--data", "photos/"), ("--data=photos",), ("--data", "./photos")])
def test_a_folder_is_mounted_read_only_under_its_own_name(here: Path, arguments: tuple[str, ...]) -> None:
    rewritten, mounts = planned(*arguments, "--trials", "50")
    assert " ".join(rewritten).replace("=", " ") == "--data /data/0/photos --trials 50"
    assert mounts == [(str(here / "photos"), "/data/0/photos", True)]


def test_a_file_is_mounted_with_the_folder_it_lies_in(here: Path) -> None:
    rewritten, mounts = planned("--data", "lists/train.txt")
    assert rewritten == ["--data", "/data/0/lists/train.txt"]
    assert mounts == [(str(here / "lists"), "/data/0/lists", True)]


def test_one_folder_is_mounted_once(here: Path) -> None:
    rewritten, mounts = planned("runs/first", "photos/a.jpg", "photos/a.jpg", "lists/train.txt")
    assert rewritten == [
        "/app/runs/first",
        "/data/0/photos/a.jpg",
        "/data/0/photos/a.jpg",
        "/data/1/lists/train.txt",
    ]
    assert len(mounts) == 2


@pytest.mark.parametrize("value", ["50", "digits", "mini", "ViT-B/32", "not-there", "", "--json"])
def test_what_is_no_path_stays_as_it_is(here: Path, value: str) -> None:
    assert planned("--x", value) == (["--x", value], [])


def test_written_folders_are_writable_and_runs_stay_runs(here: Path) -> None:
    assert planned("--resume", "runs/first") == (["--resume", "/app/runs/first"], [])
    assert planned("--out=runs/new") == (["--out=/app/runs/new"], [])
    assert planned("--out", "elsewhere/new") == (
        ["--out", "/data/0/new"],
        [(str(here / "elsewhere/new"), "/data/0/new", False)],
    )


JOBS = [
    Options("few_shot", ("--data", "photos/", "--trials", "50")),
    Options(
        "few_shot", ("--data", "old photos, best", "--out", "o"), docker_image="me/it:1", gpus="none", shm_size="512m"
    ),
    Options("predict", ("runs/first", "photos/a.jpg", "--json"), gpus="2"),
    Options("few_shot", ("--no-pretrained",), gpus="device=0,2"),
]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with FakeEngine(status=3) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        yield engine


def asked(engine: FakeEngine) -> dict[str, Any]:
    """What decides the container, out of the many fields a client sends."""
    created, host = engine.created, engine.created["HostConfig"]
    mounts = [{"ReadOnly": False} | mount for mount in host.get("Mounts") or []]
    devices = [
        (request.get("Count") or 0, request.get("DeviceIDs") or [], request["Capabilities"])
        for request in host.get("DeviceRequests") or []
    ]
    top = {name: created[name] for name in ("Image", "Cmd", "User")}
    return top | {"mounts": mounts, "devices": devices, "shm": host["ShmSize"], "init": host["Init"]}


@pytest.mark.parametrize("options", JOBS, ids=lambda options: options.gpus)
def test_the_sdk_asks_the_engine_for_the_planned_container(here: Path, engine: FakeEngine, options: Options) -> None:
    job = plan(options)
    client = docker.from_env()
    client.containers.create(**container_arguments(job, docker))
    client.close()
    got = asked(engine)
    assert (got["Image"], got["Cmd"], got["User"]) == (options.docker_image, list(job.command), job.user)
    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in got["mounts"]] == [tuple(mount) for mount in job.mounts]
    wanted = {
        "none": [],
        "all": [(-1, [], [["gpu"]])],
        "2": [(2, [], [["gpu"]])],
        "device=0,2": [(0, ["0", "2"], [["gpu"]])],
    }
    assert got["devices"] == wanted[options.gpus]
    assert got["shm"] == {"8g": 8 << 30, "512m": 512 << 20}[options.shm_size]
    assert got["init"] is True


@pytest.mark.skipif(not shutil.which("docker"), reason="needs the docker command (no engine)")
@pytest.mark.parametrize("options", JOBS, ids=lambda options: options.gpus)
def test_the_printed_line_asks_for_the_same_container(here: Path, engine: FakeEngine, options: Options) -> None:
    job = plan(options)
    client = docker.from_env()
    client.containers.create(**container_arguments(job, docker))
    client.close()
    by_sdk = asked(engine)
    done = subprocess.run(docker_run_line(job), capture_output=True, text=True, timeout=30)
    assert asked(engine) == by_sdk
    assert (done.stdout, done.stderr, done.returncode) == ("result\n", "progress\n", 3)


def page_lines() -> list[str]:
    """The first commands of docs/docker.md: the image, the folder, the run."""
    section = (ROOT / "docs/docker.md").read_text("utf-8").partition("## On a GPU\n")[2]
    return section.partition("```bash\n")[2].partition("```")[0].replace("\\\n", "").splitlines()


def test_the_page_builds_the_image_that_in_docker_runs() -> None:
    assert page_lines()[0] == BUILD


@pytest.mark.skipif(not shutil.which("docker"), reason="needs the docker command (no engine)")
def test_the_line_of_the_page_asks_for_the_same_container(here: Path, engine: FakeEngine) -> None:
    """What differs: the line keeps weights in a volume, as it cannot know where this machine has its own."""
    job = plan(Options("few_shot", ("--trials", "50")))
    client = docker.from_env()
    client.containers.create(**container_arguments(job, docker))
    client.close()
    planned = asked(engine)
    shutil.rmtree(here / "runs")  # as in a fresh clone
    done = subprocess.run(["bash", "-ec", "\n".join(page_lines()[1:])], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("result\n", "progress\n", 3)
    assert (here / "runs").stat().st_uid == os.getuid()
    by_hand, binds = asked(engine), engine.created["HostConfig"]["Binds"]
    assert sorted(binds) == sorted([":".join(job.mounts[0][:2]), "clip-fewshot:/cache"])  # docker gives no order
    assert (by_hand.pop("mounts"), len(planned.pop("mounts"))) == ([], 2)
    assert by_hand == planned


def test_compose_asks_for_the_same_container(here: Path) -> None:
    """But for its user: test_docker.py."""
    compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
    job = plan(Options("few_shot"))
    targets = {volume.rsplit(":", 1)[1] for volume in compose["x-common"]["volumes"]}
    for service in compose["services"].values():
        assert service["init"] is ("--init" in docker_run_line(job))
        assert service["shm_size"] == f"{job.shm_size}b"
        assert {mount.target for mount in job.mounts} <= targets
    assert compose["services"]["gpu"]["image"] == job.image
    assert compose["volumes"] == {"weights": {"name": "clip-fewshot"}}  # as in the line of the README


def test_for_code_of_the_users_own_the_current_folder_is_mounted(here: Path) -> None:
    mount = (str(here), "/code", True)
    assert planned("--model", "python:my_towers:build")[1] == [mount]
    assert planned("--data", "photos", "--trust", "mine=python:my_towers:Head")[1][0] == mount
    assert mount not in planned("--data", "photos")[1]


def test_a_run_passes_on_both_streams_and_the_exit_code(here: Path, engine: FakeEngine) -> None:
    done = in_docker("few_shot", "--data", "photos/", "--trials", "50")
    assert (done.stdout, done.stderr, done.returncode) == ("result\n", "progress\n", 3)
    assert engine.calls == ["create", "attach", "start", "wait", "stop", "remove"]
    assert engine.created["Cmd"] == ["experiments.few_shot", "--data", "/data/0/photos", "--trials", "50"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_stops_the_container(here: Path, number: signal.Signals, code: int) -> None:
    with FakeEngine(forever=True) as engine:
        environment = {**os.environ, "DOCKER_HOST": engine.address, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "experiments.in_docker", "few_shot", "--data", "photos"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"result\n"
            process.send_signal(number)
            _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert b"Traceback" not in errors
    assert engine.calls[-2:] == ["stop", "remove"]


def test_an_unknown_image_says_how_to_make_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeEngine(image_known=False) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        with pytest.raises(cf.ResourceError, match=r"an image named clip-fewshot, got none; make it: docker build"):
            main(JOBS[0])


def in_docker(
    *arguments: str, python: tuple[str, ...] = ("-m", "experiments.in_docker"), **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)


def printed_job(stdout: str) -> list[str]:
    (line,) = stdout.splitlines()
    return shlex.split(line)


def test_without_an_engine_the_line_is_printed_and_the_exit_code_is_4(here: Path) -> None:
    done = in_docker("few_shot", "--data", "photos/", "--trials", "50", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == 4
    assert printed_job(done.stdout) == docker_run_line(plan(JOBS[0]))
    assert done.stderr.startswith("error: expected a docker engine")
    assert done.stderr.count("\n") == 1


WITHOUT_SDK = (
    "import runpy, sys; sys.modules['docker'] = None; runpy.run_module('experiments.in_docker', None, '__main__', True)"
)


def test_without_the_sdk_the_line_is_printed_and_the_exit_code_is_4(here: Path) -> None:
    done = in_docker("few_shot", "--data", "photos/", "--trials", "50", python=("-c", WITHOUT_SDK))
    assert done.returncode == 4
    assert printed_job(done.stdout) == docker_run_line(plan(JOBS[0]))
    assert "pip install docker" in done.stderr


def test_show_prints_the_line_and_asks_nobody(here: Path) -> None:
    done = in_docker("--show", "--gpus=none", "few_shot", "--trials", "5", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert printed_job(done.stdout)[-4:] == ["experiments.few_shot", "--trials", "5", "--help"]
    assert "--gpus" not in done.stdout


@pytest.mark.parametrize("arguments", [("fewshot",), ("--gpus", "some", "few_shot"), ("options",)])
def test_mistakes_are_usage_errors(here: Path, arguments: tuple[str, ...]) -> None:
    done = in_docker(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
