"""A study that several workers share, on a real PostgreSQL server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.cli.command import Ended, fork, wait_for

pytestmark = pytest.mark.postgres
TRIALS = 8
PASSWORD = "s3cret"


def programs() -> Path:
    """Where initdb and pg_ctl lie: Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    on_path = shutil.which("pg_ctl")
    if not found and on_path is None:
        pytest.skip("no PostgreSQL here")
    return found[-1] if found else Path(str(on_path)).parent


@dataclass(frozen=True)
class Server:
    """A server of our own, on a free port of this machine."""

    folder: Path
    port: int

    def control(self, *words: str) -> None:
        """Run a program of PostgreSQL, as a user it accepts: it refuses root."""
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        command = [*user, str(programs() / words[0]), *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -F"
        self.control("pg_ctl", "-D", "data", "-l", "log", "-o", options, "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        self.control("pg_ctl", "-D", "data", "-w", "-m", mode, "stop")

    def address(self, database: str, scheme: str = "postgresql") -> str:
        return f"{scheme}://worker:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def fresh(self, name: str) -> str:
        """The address of a new, empty database."""
        self.control("psql", "-q", "-h", str(self.folder), "-p", str(self.port), "-U", "worker", "-d", "postgres",
                     "-c", f"create database {name}")  # fmt: skip
        return self.address(name)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path is short, and pytest's folders are closed to others
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(folder, port)
    (folder / "password").write_text(PASSWORD)
    if os.geteuid() == 0:
        for path in (folder, folder / "password"):
            os.chown(path, 65534, 65534)
    server.control("initdb", "-D", "data", "-U", "worker", "--pwfile=password", "--auth-host=scram-sha-256",
                   "--auth-local=trust", "--no-sync", "-E", "UTF8")  # fmt: skip
    server.start()
    yield server
    server.stop("immediate")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def options(inputs: Path) -> list[str]:
    words = f"--shots 3 --trials {TRIALS} --seeds 1 --epochs 1 --max-unfreeze 2 --approaches mlp,contrastive"
    return ["--data", str(inputs / "photos"), "--model", str(inputs / "tiny"), *words.split()]


def study(address: str) -> list[optuna.trial.FrozenTrial]:
    """What the database holds, read by Optuna alone."""
    database = optuna.storages.RDBStorage(address.replace("postgresql://", "postgresql+psycopg://"))
    (held,) = database.get_all_studies()
    trials = database.get_all_trials(held._study_id)
    database.remove_session()
    database.engine.dispose()
    return trials


def files(*outs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text())["record"] for out in outs for path in sorted((out / "trials").glob("*.json"))]


def points(records: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(record["params"], sort_keys=True) for record in records]


def starts(records: list[dict[str, Any]]) -> list[str]:
    """Approaches of the points that every study begins with: the baselines and the centres."""
    return sorted(record["params"]["approach"] for record in records if record["number"] < len(ALL_STARTS))


ALL_STARTS = ["contrastive", "linear-probe", "mlp", "text-prior", "zero-shot"]


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_that_start_at_once_on_a_fresh_database_share_one_study(
    workers: int, server: Server, options: list[str], tmp_path: Path
) -> None:
    address = server.fresh(f"shared{workers}")
    outs = [tmp_path / str(i) for i in range(workers)]
    streams = [tmp_path / f"streams {i}" for i in range(workers)]  # a folder with other files is no place for a run
    begun = [
        fork(stream, "few_shot", *options, "--storage", address, "--out", out)
        for stream, out in zip(streams, outs, strict=True)
    ]
    ended = [process.wait() for process in begun]
    assert [end.code for end in ended] == [0] * workers, [end.err for end in ended]
    records = files(*outs)
    assert TRIALS <= len(records) <= TRIALS + workers - 1
    assert sorted(record["number"] for record in records) == list(range(len(records)))
    assert starts(records) == ALL_STARTS
    assert len(set(points(records))) == len(records)
    assert all(files(out) for out in outs), "a worker did nothing"
    in_database = study(address)
    assert {trial.number: trial.user_attrs["record"] for trial in in_database} == {r["number"]: r for r in records}
    for out in outs:
        text = (out / "run.json").read_text() + (out / "results.json").read_text() + (out / "report.html").read_text()
        assert PASSWORD not in text
        found = json.loads((out / "results.json").read_text())["search"]
        assert found["finished"] + found["pruned"] + found["failed"] >= TRIALS


def test_a_killed_worker_costs_the_trial_it_was_at_and_no_other(
    server: Server, options: list[str], tmp_path: Path
) -> None:
    address = server.fresh("killed")
    killed, other = tmp_path / "killed", tmp_path / "other"
    first = fork(tmp_path / "first", "few_shot", *options, "--storage", address, "--out", killed)
    wait_for(lambda: len(list((killed / "trials").glob("*.json"))) >= 3)
    assert first.kill_after(0)
    before = files(killed)
    assert fork(tmp_path / "second", "few_shot", *options, "--storage", address, "--out", other).wait().code == 0
    records = before + files(other)
    assert len(records) in (TRIALS, TRIALS + 1)  # the kill may fall between the file and the database
    assert len({record["number"] for record in records}) == len(records)
    resumed = fork(tmp_path / "third", "few_shot", "--resume", killed, "--storage", address).wait()
    assert resumed.code == 0, resumed.err
    assert files(killed) == before


def refused(ended: Ended) -> str:
    assert (ended.code, ended.out, ended.err.count("\n")) == (4, "", 1), ended.err
    assert PASSWORD not in ended.err
    return ended.err


def test_a_server_that_goes_away_is_one_line_and_the_run_goes_on_with_it(
    server: Server, options: list[str], tmp_path: Path
) -> None:
    address, out = server.fresh("stopped"), tmp_path / "run"
    run = fork(tmp_path / "first", "few_shot", *options, "--storage", address, "--out", out)
    wait_for(lambda: len(list((out / "trials").glob("*.json"))) >= 2)
    server.stop("immediate")
    try:
        assert "--storage" in refused(run.wait())
        assert "refused" in refused(fork(tmp_path / "second", "few_shot", "--resume", out, "--storage", address).wait())
    finally:
        server.start()
    finished = fork(tmp_path / "third", "few_shot", "--resume", out, "--storage", address).wait()
    assert finished.code == 0, finished.err
    assert len([trial for trial in study(address) if trial.state.is_finished()]) == TRIALS


def test_a_wrong_password_and_a_forgotten_one_are_told(server: Server, options: list[str], tmp_path: Path) -> None:
    address, out = server.fresh("locked"), tmp_path / "run"
    wrong = address.replace(PASSWORD, "guess")
    assert "password" in refused(fork(tmp_path / "a", "few_shot", *options, "--storage", wrong, "--out", out).wait())
    forgotten = fork(tmp_path / "b", "few_shot", "--resume", out).wait()
    assert forgotten.code == 2
    assert "give --storage again" in forgotten.err
