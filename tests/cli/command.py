"""Run `python -m experiments.NAME` as a process of its own, as a shell would.

`start(...)` is a new interpreter. `fork(...)` is a child of a server that has imported the libraries already: the same
`__main__`, descriptors, signals and exit code without the seconds of importing, for tests that need many processes.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PRELOADED = ["clip_fewshot.commands.few_shot", "clip_fewshot.pipeline", "torch._dynamo", __name__]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Forked:
    """A command under way in a session of its own, its two streams in files."""

    process: BaseProcess
    folder: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self, seconds: float = 120) -> Ended:
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s"
        out, err = ((self.folder / name).read_text() for name in ("out", "err"))
        return Ended(self.process.exitcode, out, drop_progress(err))

    def kill_after(self, seconds: float) -> bool:
        """SIGKILL unless it ends before; whether the kill hit."""
        self.process.join(seconds)
        if self.process.is_alive():
            os.kill(self.pid, signal.SIGKILL)
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL


def fork(
    folder: Path,
    experiment: str,
    *argv: object,
    uid: int | None = None,
    env: Mapping[str, str] | None = None,
    workers_at_once: bool = False,
) -> Forked:
    """Begin a command; ``folder`` receives its streams, ``uid`` is who runs it.

    ``workers_at_once``: worker processes start with the first training, whether they pay or not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("out", "err"):
        (folder / name).write_text("")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    words = [str(item) for item in argv]
    arguments = (str(folder), experiment, words, uid, {**ENVIRONMENT, **(env or {})}, workers_at_once)
    process = context.Process(target=_become, args=arguments)
    process.start()
    return Forked(process, folder)


def _become(
    folder: str, experiment: str, argv: list[str], uid: int | None, env: dict[str, str], workers_at_once: bool
) -> None:
    import torch

    from clip_fewshot.runtime import workers

    os.setsid()  # who is left over afterwards can be told by the session
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder) / name, os.O_WRONLY | os.O_APPEND), descriptor)
    torch.set_num_threads(1)  # the server read OMP_NUM_THREADS before this test could set it
    os.environ.update(env)
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    if workers_at_once:
        workers.PRICE = 0.0
    sys.argv = [f"{experiment}.py", *argv]
    runpy.run_module(f"experiments.{experiment}", run_name="__main__", alter_sys=True)


def start(experiment: str, *argv: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Begin a command in a new interpreter, its streams in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{experiment}", *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, **(env or {})},
        start_new_session=True,
    )


def call(experiment: str, *argv: object, env: Mapping[str, str] | None = None, seconds: float = 300) -> Ended:
    """A command in a new interpreter, from beginning to end."""
    with start(experiment, *argv, env=env) as process:
        out, err = process.communicate(timeout=seconds)
    return Ended(process.returncode, out, drop_progress(err))


def drop_progress(err: str) -> str:
    """Standard error without the lines that a busy machine gets, on which a command takes long."""
    return re.sub(r"^\[\d+ s\] .*\n", "", err, flags=re.MULTILINE)


def session_members(sid: int) -> list[int]:
    """Processes that belong to a session and are not mere zombies."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # ended meanwhile
            continue
        if int(session) == sid and state != "Z":
            members.append(int(stat.parent.name))
    return members


def wait_for(condition: object, seconds: float = 120) -> None:
    """Until ``condition()`` holds."""
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, f"nothing happened for {seconds} s"
        time.sleep(0.02)
