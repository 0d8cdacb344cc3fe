"""Any experiment, in the image: ``python -m experiments.in_docker few_shot --data photos/ --trials 50``.

Each argument that names a file or folder here is mounted read-only and replaced by its place in the container. The
folder of runs and the weights cache are shared with this machine, and what is written belongs to the user who asked for
it. For ``python:MODULE:NAME`` the current folder is mounted too. Without an engine or its SDK the equal ``docker run``
line is printed, and the exit code is 4.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import clip_fewshot as cf
import experiments
from clip_fewshot.commands.cli.run import run
from clip_fewshot.config import BUILTIN_DATA
from clip_fewshot.runtime.files import cache_root
from clip_fewshot.runtime.parts import PYTHON_PREFIX

WORK, CACHE, DATA = PurePosixPath("/app"), PurePosixPath("/cache"), PurePosixPath("/data")  # as in docker/Dockerfile
CODE = PurePosixPath("/code")  # there too: a folder of modules of the user's own
RUNS = "runs"
WRITTEN = ("--out", "--resume")  # options whose folder the experiment writes to
BY_NAME = {*BUILTIN_DATA, "mini"}  # what an experiment knows by name, whatever folder lies here
GRACE_SECONDS = 15  # from SIGTERM to SIGKILL: an experiment leaves within 10
BUILD = "docker build -f docker/Dockerfile -t clip-fewshot ."
EXAMPLES = ("few_shot --data photos/ --trials 50", "--gpus none --show zero_shot digits --model python:my_towers:build")


@dataclass(frozen=True)
class Options:
    """What to run in which image; everything behind the experiment's name is the experiment's own."""

    experiment: str = field(metadata={"positional": True, "help": "few_shot, novelty, ...: any module of experiments"})
    arguments: tuple[str, ...] = field(
        default=(), metadata={"positional": True, "nargs": "...", "help": "its arguments"}
    )
    docker_image: str = field(default="clip-fewshot", metadata={"help": "image to run"})
    gpus: str = field(default="all", metadata={"help": "all, none, a number of GPUs, or device=0,2"})
    shm_size: str = field(default="8g", metadata={"help": "shared memory, through which workers hand over images"})
    runs: Path = field(default=Path(RUNS), metadata={"help": "folder of results on this machine"})
    show: bool = field(default=False, metadata={"help": "print the docker run line and do nothing"})


class Mount(NamedTuple):
    """A folder of this machine in the container."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class Job:
    """One container, in a form for both the SDK and the command line."""

    image: str
    command: tuple[str, ...]
    mounts: tuple[Mount, ...]
    gpus: str
    shm_size: str
    user: str | None


def plan(options: Options) -> Job:
    """Which container runs the experiment. Makes the folders it writes to: the engine would make them as root."""
    arguments, mounts = _rewrite(options.arguments, options.runs)
    shared = (_written(options.runs, WORK / RUNS), _written(cache_root(), CACHE))
    own_code = any(PYTHON_PREFIX in argument for argument in options.arguments)
    code = (Mount(str(Path.cwd()), str(CODE), True),) if own_code else ()
    user = f"{os.getuid()}:{os.getgid()}" if hasattr(os, "getuid") else None
    command = (f"experiments.{options.experiment}", *arguments)
    return Job(options.docker_image, command, shared + code + mounts, options.gpus, options.shm_size, user)


def docker_run_line(job: Job) -> list[str]:
    """The job as arguments of the docker command."""
    mounts = [f"--mount={_comma_separated(_mount_fields(mount))}" for mount in job.mounts]
    gpus = [] if job.gpus == "none" else [f"--gpus={_comma_separated([job.gpus]) if ',' in job.gpus else job.gpus}"]
    user = [] if job.user is None else [f"--user={job.user}"]
    head = ["docker", "run", "--rm", "--init", *gpus, f"--shm-size={job.shm_size}", *user]
    return [*head, *mounts, job.image, *job.command]


def container_arguments(job: Job, docker: Any) -> dict[str, Any]:
    """The job as arguments of ``client.containers.create``."""
    mounts = [docker.types.Mount(m.target, m.source, type="bind", read_only=m.read_only) for m in job.mounts]
    return {
        "image": job.image,
        "command": list(job.command),
        "mounts": mounts,
        "device_requests": [docker.types.DeviceRequest(**request) for request in _gpu_requests(job.gpus)],
        "shm_size": job.shm_size,
        "user": job.user,
        "init": True,
    }


def main(options: Options) -> int:
    """Run the job in a container and return its exit code."""
    _check_experiment(options.experiment)
    _check_gpus(options.gpus)
    job = plan(options)
    line = shlex.join(docker_run_line(job))
    if options.show:
        print(line)
        return 0
    try:
        import_module("docker.client")  # "docker" alone is found in a checkout without the SDK: its folder of that name
        docker: Any = import_module("docker")
    except ImportError as error:
        print(line)
        raise cf.ResourceError(
            expected="the docker SDK", got=str(error), fix="pip install docker, or run the line above"
        ) from error
    try:
        return _run(job, docker)
    except docker.errors.ImageNotFound as error:
        raise cf.ResourceError(expected=f"an image named {job.image}", got="none", fix=f"make it: {BUILD}") from error
    except (docker.errors.DockerException, import_module("requests").RequestException) as error:
        print(line)
        fix = "run the line above where one is (--gpus none where it has no GPU)"
        raise cf.ResourceError(expected="a docker engine that takes the job", got=str(error), fix=fix) from error


def _run(job: Job, docker: Any) -> int:
    with contextlib.closing(docker.from_env()) as client:
        container = client.containers.create(**container_arguments(job, docker))
        try:
            output = container.attach(
                stream=True, demux=True
            )  # before the start, as `docker run` does: no line is missed
            container.start()
            for out, err in output:
                _pass_on(out, sys.stdout)
                _pass_on(err, sys.stderr)
            return int(container.wait()["StatusCode"])
        finally:
            try:
                container.stop(timeout=GRACE_SECONDS)  # nothing to do after an ordinary end
            finally:
                container.remove(force=True)


def _pass_on(text: bytes | None, stream: Any) -> None:
    if text:
        stream.buffer.write(text)
        stream.flush()


def _rewrite(arguments: Sequence[str], runs: Path) -> tuple[tuple[str, ...], tuple[Mount, ...]]:
    """Arguments with each path of this machine replaced by its place in the container, and the mounts for it."""
    mounts: dict[str, Mount] = {}
    rewritten, before = [], ""
    for argument in arguments:
        flag, value = argument.split("=", 1) if argument.startswith("--") and "=" in argument else (before, argument)
        place = _place(value, flag in WRITTEN, runs, mounts)
        rewritten.append(argument if place is None else argument.removesuffix(value) + place)
        before = argument
    return tuple(rewritten), tuple(mounts.values())


def _place(value: str, written: bool, runs: Path, mounts: dict[str, Mount]) -> str | None:
    """Where ``value`` is in the container, mounting it where needed; None if it is no path."""
    path = Path(value).resolve()
    if not written and (value in BY_NAME or _is_number(value) or not value or not path.exists()):
        return None
    if path.is_relative_to(runs.resolve()):
        return str(WORK / RUNS / path.relative_to(runs.resolve()).as_posix())
    folder = path if written or path.is_dir() else path.parent  # a list file's images lie beside it
    target = DATA / str(len(mounts)) / (folder.name or "root")  # the folder's name, as reports are named after it
    new = _written(folder, target) if written else Mount(str(folder), str(target), True)
    mount = mounts.setdefault(str(folder), new)
    return str(PurePosixPath(mount.target) / path.relative_to(folder).as_posix())


def _written(folder: Path, target: PurePosixPath) -> Mount:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cf.ResourceError(
            expected="a folder to write to", got=str(error), fix="choose another one", where=str(folder)
        ) from error
    return Mount(str(folder.resolve()), str(target), False)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _mount_fields(mount: Mount) -> Iterator[str]:
    yield from ("type=bind", f"source={mount.source}", f"target={mount.target}")
    if mount.read_only:
        yield "readonly"


def _comma_separated(fields: Any) -> str:
    """The docker command reads --mount and --gpus as a line of CSV, so a comma in a name wants quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _gpu_requests(gpus: str) -> list[dict[str, Any]]:
    if gpus == "none":
        return []
    if gpus.startswith("device="):
        return [{"device_ids": gpus.removeprefix("device=").split(","), "capabilities": [["gpu"]]}]
    return [{"count": -1 if gpus == "all" else int(gpus), "capabilities": [["gpu"]]}]


def _check_gpus(gpus: str) -> None:
    if not (gpus in ("all", "none") or gpus.isdigit() or gpus.startswith("device=")):
        raise cf.UsageError(
            expected="all, none, a number or device=0,2", got=repr(gpus), fix="change it", where="--gpus"
        )


def _check_experiment(name: str) -> None:
    files = [path for place in experiments.__path__ for path in Path(place).glob("*.py")]
    modules = {path.stem for path in files if "__main__" in path.read_text("utf-8")} - {"in_docker"}
    packages = {path.parent.name for place in experiments.__path__ for path in Path(place).glob("*/__main__.py")}
    known = sorted(modules | packages)
    if name not in known:
        raise cf.UsageError(
            expected=f"one of {', '.join(known)}", got=repr(name), fix="check the spelling", where="experiment"
        )


if __name__ == "__main__":
    sys.exit(run(main, Options, "python -m experiments.in_docker", __doc__ or "", examples=EXAMPLES))
