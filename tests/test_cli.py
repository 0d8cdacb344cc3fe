"""The main job as a shell sees it: kills, signals, a second run, mistakes, streams, exit codes."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_fewshot import rng
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.folder import save_backbone
from tests.command import ENVIRONMENT, ROOT, Ended, Forked, call, fork, session_members, start, wait_for

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork are POSIX")
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can set this up")
TRIALS = 5
NOWHERE = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}  # no weights from any network


@pytest.fixture(scope="module")
def inputs(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, `tiny`, and 40 pictures of four classes, `photos`."""
    root = tmp_path_factory.mktemp("inputs")
    save_backbone(tiny, root / "tiny", half=False)
    for i, name in enumerate(("ant", "bee", "fly", "wasp")):
        (root / "photos" / name).mkdir(parents=True)
        for j in range(10):
            pixels = rng.generator(0, name, j).integers(0, 160, (20, 24, 3)) + 60 * np.eye(4, 3, dtype=np.int64)[i]
            Image.fromarray(pixels.astype(np.uint8)).save(root / "photos" / name / f"{j}.png")
    return root


@pytest.fixture(scope="module")
def options(inputs: Path) -> list[str]:
    """A run of about three seconds."""
    words = f"--shots 3 --unseen wasp --trials {TRIALS} --seeds 1 --epochs 1 --max-unfreeze 2 --alpha 0.2"
    where = ["--data", str(inputs / "photos"), "--model", str(inputs / "tiny")]
    return [*where, *words.split(), "--approaches", "mlp-arcface,contrastive"]


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed."""

    out: Path
    ended: Ended
    seconds: float

    @property
    def search_seconds(self) -> float:
        return float(json.loads((self.out / "results.json").read_text())["timing"]["search"])


@pytest.fixture(scope="module")
def whole(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out = tmp_path_factory.mktemp("whole")
    fork(out / "streams", "few_shot", "--alpha", "2").wait()  # the server starts, which is not to be measured
    began = time.monotonic()
    ended = fork(out / "streams", "few_shot", *options, "--out", out / "run").wait()
    return Whole(out / "run", ended, time.monotonic() - began)


def decided(out: Path) -> dict[str, Any]:
    """All that a run decides, less the clock: the study and the saved model."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in (out / "model").iterdir()}
    for path in (out / "trials").iterdir():
        found[path.name] = json.loads(path.read_text())
        del found[path.name]["record"]["seconds"]
    return found


def trial_files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "trials").glob("*.json")}


def again(out: Path, options: list[str]) -> list[str]:
    """How to go on with a run; one that was hit before it wrote anything is begun anew."""
    return ["--resume", str(out)] if (out / "run.json").exists() else [*options, "--out", str(out)]


def one_error_line(ended: Ended) -> str:
    assert ended.out == ""
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.endswith("\n")
    assert "Traceback" not in ended.err
    assert "error: " in ended.err
    return ended.err


def test_nothing_but_the_table_on_stdout_and_no_progress_bar_outside_a_terminal(whole: Whole) -> None:
    assert whole.ended.code == 0
    first, rule, *rows = whole.ended.out.splitlines()
    assert first.startswith("method")
    assert set(rule) == {"-"}
    assert any(row.split()[:2] == ["frozen", "probe"] for row in rows)
    assert whole.ended.err.splitlines() == [f"report: {whole.out / 'report.html'}   model: {whole.out / 'model'}"]
    assert len(trial_files(whole.out)) == TRIALS


def test_resuming_a_finished_run_in_a_new_interpreter_runs_no_trial_and_prints_json_alone(
    whole: Whole, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole.out, out)
    ended = call("few_shot", "--resume", out, "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == json.loads((out / "results.json").read_text())
    assert ended.err.count("\n") == 1
    assert trial_files(out) == trial_files(whole.out)
    assert decided(out) == decided(whole.out)


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


def test_kills_at_random_moments_lose_no_trial_and_repeat_none(
    whole: Whole, options: list[str], tmp_path: Path
) -> None:
    dice, hit = random.Random(time.time_ns()), 0
    while hit < 5:
        out = tmp_path / str(hit) / "run"
        hit += kill_until_finished(out, options, dice, 0.7 * whole.seconds, 5 - hit)
        assert decided(out) == decided(whole.out)


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


MISTAKES = {
    "data": ("--data {in}/none", 2, ["{in}/none"]),
    "data-word": ("--data digit", 2, ["digit", "digits-wild"]),
    "weights": ("--data {in}/photos --shots 3 --model {in}/none.pt", 2, ["{in}/none.pt"]),
    "model-name": ("--data {in}/photos --shots 3 --model ViT-B/33", 2, ["ViT-B/32", "mini"]),
    "unreachable": (
        "--data {in}/photos --unseen wasp --shots 3",
        4,
        [
            "https://openaipublic.azureedge.net/clip/models/40d3",
            "{out}/cache/weights/40d36571-ViT-B-32.pt",
            "--model mini",
        ],
    ),
    "alpha": ("--alpha 2", 2, ["--alpha", "2"]),
    "approaches": ("--approaches mlp,svm", 2, ["svm", "contrastive-arcface"]),
    "option": ("--shot 3", 2, ["--shot"]),
    "shots": ("--data {in}/photos --model {in}/tiny --shots 50", 2, ["50"]),
    "unseen": ("--data {in}/photos --model {in}/tiny --shots 3 --unseen hornet", 2, ["hornet"]),
    "budget": ("--budget soon", 2, ["soon"]),
    "storage": ("{options} --storage sqlite:////none/study.db", 4, ["--storage"]),
    "dialect": ("{options} --storage nonsense", 2, ["--storage", "postgresql://"]),
    "resume": ("--resume {out}", 2, ["{out}", "run.json"]),
    "file": ("{options} --out {in}/photos/ant/0.png", 4, ["0.png"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_an_exit_code(name: str, inputs: Path, options: list[str], tmp_path: Path) -> None:
    text, code, needles = MISTAKES[name]
    names = {"{in}": str(inputs), "{out}": str(tmp_path), "{options}": " ".join(options)}

    def filled(words: str) -> str:
        for key, value in names.items():
            words = words.replace(key, value)
        return words

    words = filled(text).split()
    words += [] if {"--resume", "--out"} & set(words) else ["--out", str(tmp_path / "run")]
    environment = NOWHERE | {"CLIP_FEWSHOT_CACHE": str(tmp_path / "cache")}
    ended = fork(tmp_path / "streams", "few_shot", *words, env=environment).wait()
    assert ended.code == code, ended.err
    line = one_error_line(ended)
    for needle in needles:
        assert filled(needle) in line


def test_resuming_under_other_options_is_refused_rather_than_ignored(whole: Whole, tmp_path: Path) -> None:
    ended = fork(tmp_path, "few_shot", "--resume", whole.out, "--shots", "4").wait()
    assert ended.code == 2
    assert "--shots" in one_error_line(ended)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that any user can read and only its owner can write to; pytest's own is closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@needs_root
def test_a_folder_of_somebody_else_is_named(whole: Whole, public: Path, tmp_path: Path) -> None:
    refused = fork(tmp_path, "few_shot", "--out", public / "run", uid=65534).wait()
    assert refused.code == 4
    assert str(public / "run") in one_error_line(refused)
    shutil.copytree(whole.out, public / "theirs")
    refused = fork(tmp_path, "few_shot", "--resume", public / "theirs", uid=65534).wait()
    assert refused.code == 4
    assert str(public / "theirs") in one_error_line(refused)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    small_disk: Path, whole: Whole, options: list[str], tmp_path: Path
) -> None:
    out = small_disk / "run"
    full = fork(tmp_path / "streams", "few_shot", *options, "--out", out).wait()
    assert full.code == 4
    assert "bytes of disk" in one_error_line(full)
    assert list(out.rglob("*.tmp")) == []
    kept = trial_files(out)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert fork(tmp_path / "streams", "few_shot", *again(out, options)).wait().code == 0
    assert kept.items() <= trial_files(out).items()
    assert decided(out) == decided(whole.out)


def test_a_budget_ends_the_run_in_time_with_results(whole: Whole, options: list[str], tmp_path: Path) -> None:
    out, began = tmp_path / "run", time.monotonic()
    ended = fork(tmp_path, "few_shot", *options, "--trials", 10_000, "--budget", "5s", "--out", out).wait()
    seconds = time.monotonic() - began
    assert ended.code == 0, ended.err
    search = json.loads((out / "results.json").read_text())["search"]
    assert 0 < search["finished"] + search["pruned"] < 10_000
    # What follows the search took this long a moment ago; a busy machine may make it twice as long.
    assert seconds < 5 + 2 * (whole.seconds - whole.search_seconds)


EXPERIMENTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if "__main__" in path.read_text("utf-8"))


def processor_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=os.environ | ENVIRONMENT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_help_answers_at_once(experiment: str) -> None:
    command = ["-m", f"experiments.{experiment}", "--help"]
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", *command], check=True, capture_output=True, text=True, cwd=ROOT
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in traced.stderr.splitlines()}
    assert not imported & {"torch", "sklearn", "scipy", "optuna", "pandas", "matplotlib", "PIL"}
    assert traced.stdout.startswith(f"usage: python -m experiments.{experiment}")
    assert min(processor_seconds([sys.executable, *command]) for _ in range(2)) < 0.5
