"""The main job killed, interrupted, terminated, and run twice at once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.command import Ended, Forked, call, fork, session_members, start, wait_for
from tests.cli.runs import TRIALS, Whole, again, decided, one_error_line, trial_files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork are POSIX")


def kill_until_finished(out: Path, options: list[str], dice: random.Random, longest: float, kills: int) -> int:
    """Run, kill, resume, ... at most ``kills`` kills; then to the end. Returns how many kills hit."""
    before: dict[str, bytes] = {}
    hit = 0
    while True:
        command = fork(out.parent / "streams", "few_shot", *again(out, options))
        killed = hit < kills and command.kill_after(dice.uniform(0, longest))
        ended = None if killed else command.wait()
        files = trial_files(out)
        assert before.items() <= files.items(), "a finished trial was lost, or ran again"
        before = files
        hit += killed
        if ended is not None:
            assert ended.code == 0, ended.err
            return hit


@pytest.mark.attack
def test_kills_at_random_moments_lose_no_trial_and_repeat_none(
    whole: Whole, options: list[str], tmp_path: Path
) -> None:
    dice, hit = random.Random(time.time_ns()), 0
    while hit < 5:
        out = tmp_path / str(hit) / "run"
        hit += kill_until_finished(out, options, dice, 0.7 * whole.seconds, 5 - hit)
        assert decided(out) == decided(whole.out)


@pytest.mark.attack
@pytest.mark.parametrize("missing", ["manifest.json", "*"])
def test_a_kill_while_the_model_is_saved(missing: str, whole: Whole, tmp_path: Path) -> None:
    """Too short a moment for chance to hit often: files without a manifest, and halves of files."""
    out = tmp_path / "run"
    shutil.copytree(whole.out, out)
    for path in (out / "model").glob(missing):
        path.unlink()
    halves = [out / folder / f".{name}.ab12.tmp" for folder, name in
              (("model", "head.safetensors"), ("trials", "00003.json"), ("", "report.html"))]  # fmt: skip
    for half in halves:
        half.write_bytes(b"half")
    assert fork(tmp_path / "streams", "few_shot", "--resume", out).wait().code == 0
    assert decided(out) == decided(whole.out)
    assert not any(half.exists() for half in halves)


@pytest.mark.slow
def test_thirty_kills_of_new_interpreters(whole: Whole, options: list[str], tmp_path: Path) -> None:
    """The same with `python -m`, where a kill may also hit while libraries are imported."""
    dice, hit, runs, in_search = random.Random(time.time_ns()), 0, 0, 0
    began = time.monotonic()
    assert call("few_shot", *options, "--out", tmp_path / "timed").code == 0
    longest = time.monotonic() - began
    while hit < 30:
        out, before, finished = tmp_path / str(runs), dict[str, bytes](), False
        runs += 1
        while not finished:
            with start("few_shot", *again(out, options)) as process:
                try:
                    process.wait(dice.uniform(0.2, 1) * longest)
                except subprocess.TimeoutExpired:
                    process.kill()
            finished = process.returncode == 0
            assert finished or process.returncode == -signal.SIGKILL
            hit += not finished
            files = trial_files(out)
            assert before.items() <= files.items(), "a finished trial was lost, or ran again"
            in_search += not finished and len(files) < TRIALS
            before = files
        assert decided(out) == decided(whole.out)
    print(f"{hit} kills over {runs} runs, {in_search} of them before the search was done")


def hit_by(number: signal.Signals, command: Forked, out: Path, trials: int) -> tuple[Ended, float]:
    """Send a signal once that many trials are on disk; how the command ended, and after how long."""
    wait_for(lambda: len(trial_files(out)) >= trials)
    os.kill(command.pid, number)
    began = time.monotonic()
    return command.wait(20), time.monotonic() - began


@pytest.mark.attack
def test_ctrl_c_and_sigterm_leave_a_resumable_folder_and_no_process(
    whole: Whole, options: list[str], tmp_path: Path
) -> None:
    out, streams = tmp_path / "run", tmp_path / "streams"
    first = fork(streams, "few_shot", *options, "--out", out)
    wait_for(lambda: session_members(first.pid) == [first.pid])
    ended, seconds = hit_by(signal.SIGINT, first, out, 1)
    assert (ended.code, ended.out, ended.err) == (130, "", "interrupted\n")
    second = fork(streams, "few_shot", "--resume", out)
    stopped, more = hit_by(signal.SIGTERM, second, out, 3)
    assert (stopped.code, stopped.out, stopped.err) == (143, "", "")
    assert max(seconds, more) < 10
    assert session_members(first.pid) + session_members(second.pid) == []
    assert list(out.rglob("*.tmp")) == []
    assert fork(streams, "few_shot", "--resume", out).wait().code == 0
    assert decided(out) == decided(whole.out)


@pytest.mark.slow
def test_a_run_with_workers_ends_and_goes_on_like_one_without(whole: Whole, options: list[str], tmp_path: Path) -> None:
    """Killed, it leaves no process; a worker that dies ends it with one line; in all that no byte changes."""
    out, streams = tmp_path / "run", tmp_path / "streams"
    killed = fork(streams, "few_shot", *options, "--out", out, "--jobs", 2, workers_at_once=True)
    wait_for(lambda: len(session_members(killed.pid)) == 3)
    wait_for(lambda: len(trial_files(out)) >= 1)
    assert killed.kill_after(0)
    wait_for(lambda: session_members(killed.pid) == [], 10)
    bereft = fork(streams, "few_shot", "--resume", out, "--jobs", 2, workers_at_once=True)
    wait_for(lambda: len(session_members(bereft.pid)) == 3)
    os.kill(max(session_members(bereft.pid)), signal.SIGKILL)
    ended = bereft.wait()
    assert ended.code == 4
    assert "signal 9" in one_error_line(ended)
    assert session_members(bereft.pid) == []
    interrupted = fork(streams, "few_shot", "--resume", out, "--jobs", 2, workers_at_once=True)
    wait_for(lambda: len(session_members(interrupted.pid)) == 3)
    os.kill(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(20).code == 130
    assert session_members(interrupted.pid) == []
    assert fork(streams, "few_shot", "--resume", out, "--jobs", 2, workers_at_once=True).wait().code == 0
    assert decided(out) == decided(whole.out)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_at_random_moments_of_a_new_interpreter(
    number: signal.Signals, code: int, options: list[str], tmp_path: Path
) -> None:
    dice, codes = random.Random(time.time_ns()), []
    for attempt in range(8):
        with start("few_shot", *options, "--out", tmp_path / str(attempt)) as process:
            time.sleep(dice.uniform(0.5, 6))
            process.send_signal(number)
            began = time.monotonic()
            _, err = process.communicate(timeout=30)
        assert time.monotonic() - began < 10
        # The signal itself: before our first line or after our last, where nothing of ours is under way.
        assert process.returncode in (code, 0, -number), err
        codes.append(process.returncode)
        assert "Traceback" not in err, err
        assert session_members(process.pid) == []
    assert code in codes
    print(codes)


def test_a_second_run_on_one_folder_is_told_who_holds_it(options: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    holder = fork(tmp_path / "first", "few_shot", *options, "--out", out)
    wait_for(lambda: (out / "run.json").exists())
    for arguments in ([*options, "--out", out], ["--resume", out]):
        refused = fork(tmp_path / "second", "few_shot", *arguments).wait()
        assert refused.code == 4
        assert f"held by pid {holder.pid} on" in one_error_line(refused)
    assert holder.kill_after(0)
