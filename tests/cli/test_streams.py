"""Standard streams that are closed, full or lack a letter; too little memory, no home; an interrupt that gets lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_fewshot.commands.cli import opening, run
from clip_fewshot.errors import UsageError
from tests.cli.command import ENVIRONMENT, ROOT, drop_progress

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="descriptors and limits are POSIX")


@dataclass(frozen=True)
class Options:
    """None."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes with names in three scripts."""
    root, dice = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    for name in ("лиса", "梟", "elk", os.fsdecode(b"caf\xe9")):
        (root / name).mkdir()
        for i in range(8):
            Image.fromarray(dice.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def shell(line: str, photos: Path, **env: str) -> subprocess.CompletedProcess[str]:
    words = f'"{sys.executable}" -m clip_fewshot'
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT), **env}
    command = ["bash", "-c", line.replace("clip-fewshot", words)]
    ended = subprocess.run(command, cwd=photos.parent, capture_output=True, text=True, env=environment, check=False)
    ended.stderr = drop_progress(ended.stderr)
    return ended


def one_line(ended: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert all(word in ended.stderr for word in words)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_letter_that_the_output_lacks_is_an_escape(encoding: str, photos: Path) -> None:
    ended = shell(f"clip-fewshot zero-shot {photos} --model mini", photos, PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, "")
    names = {line.split()[0] for line in ended.stdout.splitlines() if line.endswith(" 8")}
    shown = {"лиса", "梟"} if encoding == "utf-8" else {r"\u043b\u0438\u0441\u0430", r"\u689f"}
    assert names == {"elk", r"caf\udce9", *shown}  # the last is no UTF-8 on the disk either


def test_what_was_computed_is_kept_where_standard_output_is_closed_or_full(photos: Path, tmp_path: Path) -> None:
    probe = f"clip-fewshot linear-probe {photos} --model mini --shots 1 --seeds 1 --grid {tmp_path}"
    one_line(shell(f"{probe}/closed.svg >&-", photos), 4, "standard output", "closed")
    one_line(shell(f"{probe}/full.svg >/dev/full", photos), 4, "standard output", "No space left")
    assert (tmp_path / "closed.svg").read_bytes() == (tmp_path / "full.svg").read_bytes()
    silent = shell(f"clip-fewshot zero-shot {photos} --model mini --json 2>&- <&-", photos)
    assert (silent.returncode, silent.stdout[:1]) == (0, "{")


@pytest.mark.parametrize("limit", [400_000, 900_000])
def test_a_limit_on_memory_is_one_line(limit: int, photos: Path) -> None:
    one_line(shell(f"ulimit -v {limit}; clip-fewshot few-shot digits --out run", photos), 4, "memory", "ulimit -v")


def test_a_user_without_a_home_is_told_what_to_set(photos: Path, tmp_path: Path) -> None:
    """As in a container that runs under the number of a user it does not know."""
    nobody = "import os, pwd; pwd.getpwuid = {}.__getitem__; del os.environ['HOME']"
    script = tmp_path / "nobody.py"
    script.write_text(f"{nobody}\nimport sys\nfrom clip_fewshot.commands import main\nsys.exit(main())\n")
    words = f'"{sys.executable}" "{script}" zero-shot {photos} --model mini'
    kept = shell(words, photos, CLIP_FEWSHOT_CACHE=str(tmp_path / "cache"))
    assert (kept.returncode, kept.stderr) == (0, "")
    one_line(shell(f"unset CLIP_FEWSHOT_CACHE XDG_CACHE_HOME; {words}", photos), 4, "set CLIP_FEWSHOT_CACHE")


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (MemoryError(), "MemoryError"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "allocate"),
        (OSError(12, "Cannot allocate memory"), "Cannot"),
        (ImportError("libx.so: failed to map segment from shared object"), "libx.so"),
        (type("PanicException", (BaseException,), {})("PyObject pointer is null"), "pointer"),
    ],
)
def test_too_little_memory_is_one_line_in_whatever_words(
    error: BaseException, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(options: Options) -> int:
        raise error

    assert run.run(main, Options, "x", "", []) == 4
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert word in err


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("allocate memory"), OSError(2, "No such file")])
def test_a_defect_is_still_shown(error: BaseException) -> None:
    def main(options: Options) -> int:
        raise error

    with pytest.raises(type(error)):
        run.run(main, Options, "x", "", [])


def test_an_error_is_one_short_line_of_plain_characters(capsys: pytest.CaptureFixture[str]) -> None:
    def main(options: Options) -> int:
        raise UsageError(expected="a name", got="\x1b[2J\u202e" + "x" * 100_000, fix="stop", where="y" * 5_000)

    assert run.run(main, Options, "x", "", []) == 2
    err = capsys.readouterr().err
    assert err[:-1].isprintable()
    assert len(err) < 1_500


class Slow:
    """Something whose end takes a while, in the middle of which the user stops the command."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_inside_a_destructor_is_not_swallowed(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    reached = threading.Event()

    def main(options: Options) -> int:
        slow = Slow(number)
        del slow  # Python reports what is raised in there, and goes on
        reached.wait(5)
        reached.set()
        return 0

    try:
        ended = run.run(main, Options, "x", "", [])
    except SystemExit as end:
        ended = end.code  # type: ignore[assignment]
    assert ended == code
    assert not reached.is_set()
    assert capsys.readouterr().err == ("interrupted\n" if number == signal.SIGINT else "")


def test_a_hundred_thousand_warnings_alike_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    many = [f"cards.csv line {i} repeats line {i % 7} and was passed over" for i in range(100_000)]
    few = [f"'{name}' (1 image) may be meant as 'fox' (40 images)" for name in ("fax", "fxo")]
    opening.warn([*many, *few, "mini is small"])
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"warning: {many[0]} (and 99,999 more like it)",
        *(f"warning: {one}" for one in few),
        "warning: mini is small",
    ]
