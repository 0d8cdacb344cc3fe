"""Who may write where in a container: the images' entrypoint, run with the users and folder modes that an engine gives.

An engine makes a missing folder of the host as root, and gives a container no right to pass by a folder's mode. Both
can be had without one, by the superuser; for others the tests that need a second user are skipped.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
ENTRYPOINT = ROOT / "docker" / "entrypoint.py"
OWNER = "RUN_AS_OWNER_OF"
CALLER = 1000
NEEDS_ROOT = "a second user is to be had by the superuser alone"
superuser = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason=NEEDS_ROOT)
PROBE = """
import os, pathlib
pathlib.Path("runs/results").touch()
print(os.getpid(), os.getuid(), os.getgid(), os.getgroups())
"""


def python_for_all() -> str:
    """An interpreter that any user can start: this one may lie in a closed folder. The entrypoint needs no package."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run([python, "-c", ""], user=CALLER, group=CALLER, extra_groups=[], check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("no Python here that another user can start")


class Checkout:
    """A fresh clone of ``CALLER``'s that is also what the container sees: its working folder, and a cache beside it."""

    def __init__(self, place: Path) -> None:
        self.folder, self.cache = place / "clone", place / "cache"
        for folder, mode in ((place, 0o755), (self.folder, 0o755), (self.cache, 0o1777)):
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)
        shutil.copy(ENTRYPOINT, place / "entrypoint.py")
        (place / "entrypoint.py").chmod(0o644)
        (self.folder / "probe.py").write_text(PROBE)
        os.chown(self.folder, CALLER, CALLER)
        self.runs = self.folder / "runs"

    def make_as_the_engine_does(self) -> None:
        self.runs.mkdir()
        self.runs.chmod(0o755)

    def run(self, user: int = CALLER, module: str = "probe", **environment: str) -> subprocess.CompletedProcess[str]:
        """``docker run --user USER IMAGE probe``: no capability but the superuser's, who is in another group too."""
        command = [python_for_all(), "-I", str(self.folder.parent / "entrypoint.py"), module]
        env = {"PATH": "/usr/bin:/bin", "CLIP_FEWSHOT_CACHE": str(self.cache), **environment}
        who: dict[str, Any] = {"user": user, "group": user, "extra_groups": [] if user else [4]}
        with subprocess.Popen(
            command, cwd=self.folder, env=env, **who, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess([str(process.pid)], process.returncode, stdout, stderr)


@pytest.fixture
def checkout() -> Iterator[Checkout]:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        yield Checkout(Path(place))


@superuser
def test_a_folder_that_the_engine_made_is_refused_at_once_with_what_to_do(checkout: Checkout) -> None:
    checkout.make_as_the_engine_does()
    done = checkout.run()
    assert (done.returncode, done.stdout) == (4, "")
    said = f"error: {checkout.runs}: expected a folder that user 1000 may write to, got one of user 0 with mode 755; "
    assert done.stderr.startswith(said)
    assert '--user "$(id -u):$(id -g)"' in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(checkout.runs.iterdir())


@superuser
def test_the_lines_of_the_message_mend_it(checkout: Checkout) -> None:
    checkout.make_as_the_engine_does()
    lines = "\n".join(re.findall(r"^    (.+)$", checkout.run().stderr, flags=re.M))
    assert lines
    subprocess.run(["sh", "-ec", lines], cwd=checkout.folder, user=CALLER, group=CALLER, extra_groups=[], check=True)
    assert checkout.run().returncode == 0


@superuser
def test_the_readmes_way_keeps_the_results_for_the_caller(checkout: Checkout) -> None:
    command = ["mkdir", "-p", "runs"]
    subprocess.run(command, cwd=checkout.folder, user=CALLER, group=CALLER, extra_groups=[], check=True)
    done = checkout.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[1:] == ["1000", "1000", "[]"]
    assert (checkout.runs / "results").stat().st_uid == CALLER


@superuser
def test_the_command_takes_the_place_of_the_entrypoint(checkout: Checkout) -> None:
    """So a signal of the engine's reaches it, and its exit code is the container's."""
    done = checkout.run()
    assert done.stdout == ""  # there is no folder of runs: the command meets that, and the entrypoint does not judge it
    assert done.returncode == 1
    os.mkdir(checkout.runs)
    os.chown(checkout.runs, CALLER, CALLER)
    done = checkout.run()
    assert done.stdout.split()[0] == done.args[0]


@superuser
def test_a_cache_of_another_user_is_refused(checkout: Checkout) -> None:
    checkout.cache.chmod(0o755)
    done = checkout.run()
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith(f"error: {checkout.cache}: expected a folder that user 1000 may write to")


@superuser
def test_a_folder_mounted_read_only_is_there_to_be_read(checkout: Checkout) -> None:
    checkout.make_as_the_engine_does()
    run = f"{python_for_all()} -I ../entrypoint.py platform"
    steps = f"""
        mount --bind runs runs
        mount -o remount,bind,ro runs
        cd .
        exec setpriv --reuid {CALLER} --regid {CALLER} --clear-groups {run}
    """
    env = {"PATH": os.environ["PATH"], "CLIP_FEWSHOT_CACHE": str(checkout.cache)}
    command = ["unshare", "--mount", "sh", "-ec", steps]
    done = subprocess.run(command, cwd=checkout.folder, env=env, capture_output=True, text=True)
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "Linux" in done.stdout


def owned(checkout: Checkout, user: int, group: int) -> str:
    """A file of the checkout, as compose mounts one."""
    path = checkout.folder / "compose.yaml"
    path.touch()
    os.chown(path, user, group)
    return str(path)


@superuser
def test_started_as_root_it_becomes_the_owner_of_the_checkout(checkout: Checkout) -> None:
    checkout.make_as_the_engine_does()
    done = checkout.run(user=0, **{OWNER: owned(checkout, 1234, 1235)})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[1:] == ["1234", "1235", "[]"]
    for path in (checkout.runs, checkout.runs / "results"):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)
    assert checkout.cache.stat().st_uid == 0  # open to all, as the image's own: others share the volume


@superuser
def test_a_folder_of_root_with_something_in_it_is_not_handed_over(checkout: Checkout) -> None:
    checkout.make_as_the_engine_does()
    (checkout.runs / "of another").touch()
    done = checkout.run(user=0, **{OWNER: owned(checkout, 1234, 1235)})
    assert (done.returncode, done.stdout) == (4, "")
    assert "that user 1234 may write to, got one of user 0" in done.stderr
    assert checkout.runs.stat().st_uid == 0


@superuser
@pytest.mark.parametrize("user", [0, CALLER])
def test_without_that_variable_or_without_root_the_user_stays(checkout: Checkout, user: int) -> None:
    os.mkdir(checkout.runs)
    os.chown(checkout.runs, user, user)
    environment: dict[str, Any] = {OWNER: owned(checkout, 1234, 1235)} if user else {}
    done = checkout.run(user=user, **environment)
    assert done.stdout.split()[1:3] == [str(user), str(user)]


def test_without_a_second_user_too_a_closed_folder_is_refused(tmp_path: Path) -> None:
    if os.access(tmp_path, os.W_OK) and hasattr(os, "geteuid") and os.geteuid() == 0:
        pytest.skip("no folder is closed to the superuser")
    (tmp_path / "runs").mkdir(mode=0o555)
    command = [sys.executable, "-I", str(ENTRYPOINT), "platform"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (4, "")
    (tmp_path / "runs").chmod(0o755)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


@superuser
@pytest.mark.skipif(not list(Path("/usr/lib").glob("*/libnss_wrapper.so")), reason="needs libnss-wrapper")
def test_a_user_without_an_account_gets_one_for_java(checkout: Checkout) -> None:
    (checkout.folder / "whose.py").write_text("import os, pwd; print(*pwd.getpwuid(os.getuid()))")
    stranger = 45678
    os.mkdir(checkout.runs)
    os.chown(checkout.runs, stranger, stranger)
    done = checkout.run(user=stranger, module="whose", HOME="/tmp")
    assert done.stdout == f"clip x {stranger} {stranger}  /tmp /bin/sh\n"
    root = checkout.run(user=0, module="whose")
    assert root.stdout.startswith("root ")


def test_the_variable_is_the_one_of_compose() -> None:
    assert runpy.run_path(str(ENTRYPOINT))["OWNER"] == OWNER
