"""What must not matter to the main job: the test side, processes, threads, hash seeds, -O, the clock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.attack import lines, scene
from tests.attack.apart import fresh
from tests.attack.harness import Attack, Outcome
from tests.cli.command import ROOT
from tests.cli.runs import decided

CLOCK = """
import sys, time
real = time.time
time.time = lambda: {now}
sys.argv[0] = "few_shot.py"
from clip_fewshot.commands import run_command
sys.exit(run_command("few_shot", sys.argv[1:], "few_shot"))
"""


def _sides(folder: Path, change: Callable[[Path, np.random.Generator], None] | None, seed: int) -> tuple[Path, Path]:
    """Training and test pictures as two folders, the latter changed."""
    place = fresh(folder, "sides")
    for name in scene.NAMES[:3]:
        for i, picture in enumerate(sorted((scene.photos(folder) / name).iterdir())):
            side = place / ("train" if i < 6 else "test") / name
            side.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, side / picture.name)
    if change is not None:
        change(place / "test", np.random.default_rng(seed))
    return place / "train", place / "test"


def _permute(test: Path, draw: np.random.Generator) -> None:
    """Each class keeps its count; which pictures are its is drawn."""
    pictures = sorted(test.glob("*/*.png"))
    contents = [path.read_bytes() for path in pictures]
    for path, i in zip(pictures, draw.permutation(len(pictures)).tolist(), strict=True):
        path.write_bytes(contents[i])


def _poison(test: Path, draw: np.random.Generator) -> None:
    for path in sorted(test.glob("*/*.png")):
        Image.fromarray(draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)


class Change(NamedTuple):
    """What is changed of a run.

    Attributes:
        words: options more. env: of the process. python: options of the interpreter. now: a clock that answers this.
        test: changes the folder of the test pictures.
    """

    name: str
    words: tuple[object, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    python: tuple[str, ...] = ()
    now: str = ""
    test: Callable[[Path, np.random.Generator], None] | None = None


CHANGES = (
    Change("nothing"),
    Change("test labels permuted", test=_permute),
    Change("test pictures of noise", test=_poison),
    Change("--jobs 2", words=("--jobs", 2)),
    Change("two threads", env=(("OMP_NUM_THREADS", "2"),)),
    Change("hash seed 1", env=(("PYTHONHASHSEED", "1"),)),
    Change("hash seed 77", env=(("PYTHONHASHSEED", "77"),)),
    Change("python -O", python=("-O",)),
    Change("clock of 1980", now="3.2e8"),
    Change("clock backwards", now="2e9 - 1000 * (real() % 1e6)"),
)
WORDS = "--shots 3 --unseen 0 --trials 4 --seeds 2 --epochs 2 --max-unfreeze 1 --alpha 0.25 --approaches mlp --jobs 1"


def _run(folder: Path, change: Change, seed: int) -> dict[str, Any]:
    train, test = _sides(folder, change.test, seed)
    out = fresh(folder, "same bytes") / "run"
    words = [str(train), "--test", str(test), "--model", str(scene.model(folder)), *WORDS.split(), "--seed", str(seed)]
    start = ["-c", CLOCK.format(now=change.now)] if change.now else ["-m", "experiments.few_shot"]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", **dict(change.env)}
    environment["CLIP_FEWSHOT_CACHE"] = str(out.parent / "cache")
    call = [sys.executable, *change.python, *start, *words, "--out", str(out), *map(str, change.words)]
    done = subprocess.run(
        call, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    return decided(out)


@cache
def _right(folder: Path, seed: int) -> dict[str, Any]:
    return _run(folder, CHANGES[0], seed)


def strike(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    change, seed = CHANGES[number % len(CHANGES)], number // len(CHANGES)
    right, found = _right(folder, seed), _run(folder, change, seed)
    unlike = sorted(name for name in {*right, *found} if right.get(name) != found.get(name))
    return Outcome(not unlike, "other bytes" if unlike else "same", f"{change.name}, seed {seed}: {unlike}")


ATTACKS = [
    Attack(
        "what must not matter",
        "the same trials and the same model, to the last byte",
        3 * len(CHANGES),
        0,
        lines.prepare,
        strike,
        patience=600,
    )
]
