"""What a user can get wrong, and what a machine can lack: one line and an exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import fork
from tests.cli.runs import Whole, again, decided, one_error_line, trial_files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and fork are POSIX")
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can set this up")
NOWHERE = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}  # no weights from any network
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
            "the model photos (--model)",
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
    assert " of disk" in one_error_line(full)
    assert list(out.rglob("*.tmp")) == []
    kept = trial_files(out)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert fork(tmp_path / "streams", "few_shot", *again(out, options)).wait().code == 0
    assert kept.items() <= trial_files(out).items()
    assert decided(out) == decided(whole.out)
