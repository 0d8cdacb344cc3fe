"""SIGKILL in the middle of the work, at a random moment or between two writes, and then the same work again.

Nothing that was finished is lost or done twice, and what comes out in the end are the bytes of the run left alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import clip_fewshot as cf
from tests.attack import lines, scene
from tests.attack.apart import command, fresh
from tests.attack.harness import Attack, Outcome
from tests.contrastive.killed import TIMES, deadly
from tests.open_world.store.crashing import killed

LONG = 300.0


class Job(NamedTuple):
    """A command that can go on where it was killed.

    Attributes:
        argv: (folder of the scene, whether it goes on) -> its words; outputs go to the current folder.
        result: folder of the outputs -> what a run left alone has as well.
        kept: folder of the outputs -> what was finished, which no later run may change.
    """

    name: str
    argv: Callable[[Path, bool], tuple[object, ...]]
    result: Callable[[Path], Any]
    kept: Callable[[Path], dict[str, bytes]] = lambda cwd: {}


def _bytes(folder: Path, pattern: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern)}


def _figures(folder: Path) -> list[dict[str, Any]]:
    found = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in TIMES} for line in found]


def _resumed(name: str, out: str) -> Callable[[Path, bool], tuple[object, ...]]:
    def argv(folder: Path, again: bool) -> tuple[object, ...]:
        words = lines.lines(folder)[name]
        return (name, *(("--resume" if again and word == "--out" else word) for word in words), "--seed", 1)

    return argv


JOBS = (
    Job(
        "pretrain",
        _resumed("pretrain", "scratch"),
        lambda cwd: (_bytes(cwd / "scratch", "*.safetensors"), _figures(cwd / "scratch")),
    ),
    Job(
        "finetune",
        _resumed("finetune", "tuned"),
        lambda cwd: (_bytes(cwd / "tuned" / "model", "*.safetensors"), _figures(cwd / "tuned" / "training")),
    ),
    Job(
        "embed",
        lambda folder, again: ("embed", *lines.lines(folder)["embed"]),
        lambda cwd: _bytes(cwd, "*.parquet"),
        lambda cwd: {path.name: path.read_bytes() for path in cwd.glob("*.parquet")},
    ),
)
BEGUN = {"pretrain": "scratch", "finetune": "tuned", "embed": "nothing"}


@cache
def _whole(name: str, folder: Path) -> tuple[Any, float]:
    """What comes out of a run left alone, and its seconds."""
    import time

    job, cwd, began = next(job for job in JOBS if job.name == name), fresh(folder, f"whole {name}"), time.monotonic()
    ended = command(folder, *job.argv(folder, False), cwd=cwd, seconds=LONG, env=_cache(cwd))
    if ended.code:
        raise RuntimeError(ended.err[-500:])
    return job.result(cwd), time.monotonic() - began


def _cache(cwd: Path) -> dict[str, str]:
    return {"CLIP_FEWSHOT_CACHE": str(cwd / "cache")}


class _Kill(NamedTuple):
    """Run and kill once at a random moment, look at what is there, and run to the end."""

    name: str

    def __call__(self, folder: Path, draw: np.random.Generator, number: int) -> Outcome:
        job, (right, seconds) = next(job for job in JOBS if job.name == self.name), _whole(self.name, folder)
        cwd, hits, kept = fresh(folder, f"killed {self.name}"), [], dict[str, bytes]()
        while True:
            limit = float(draw.uniform(0, 0.9 * seconds)) if not hits else LONG
            again = (cwd / BEGUN[self.name]).exists()
            ended = command(folder, *job.argv(folder, again), cwd=cwd, seconds=limit, env=_cache(cwd))
            at = f"killed after {', '.join(f'{hit:.2f}' for hit in hits)} of {seconds:.2f} s"
            now = job.kept(cwd)
            if not kept.items() <= now.items():
                return Outcome(False, "lost or done again", at)
            kept = now
            if ended.code is None and limit < LONG:
                hits.append(limit)
                continue
            if ended.code:
                return Outcome(False, f"ends with {ended.code}", f"{at}: {ended.err[-300:]}")
            if not hits:
                return Outcome(True, "ended before the kill")
            if job.result(cwd) != right:
                return Outcome(False, "other bytes", at)
            halves = [str(path.relative_to(cwd)) for path in cwd.rglob("*.tmp")]
            return Outcome(not halves, "half files left" if halves else "same", f"{at}: {halves}" if halves else "")


@cache
def _worlds(folder: Path) -> tuple[Any, Any]:
    return cf.OpenWorldClassifier.load(scene.world(folder), scene.tiny()), scene.fit_world(folder, seed=1)


def strike_save(folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    """A model saved over another, killed before or after its n-th write: the old one is there or the new one, whole."""
    old, new = _worlds(folder)
    place = folder / "work" / "saved"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(scene.world(folder), place)
    at = number % 40

    def work() -> None:
        deadly(at)
        new.save(place)

    hit = killed(work)
    found = scene.fingerprint(cf.OpenWorldClassifier.load(place, scene.tiny()).to_artifact())
    if found not in (scene.fingerprint(world.to_artifact()) for world in (old, new)):
        return Outcome(False, "neither the old nor the new model", f"at write {at}")
    new.save(place)
    left = [path.name for path in place.iterdir() if path.suffix == ".tmp"]
    return Outcome(not left, "half files left" if left else "whole", f"at write {at}: {left}, signal {hit}")


def _attack(job: Job, whole: int, small: int) -> Attack:
    def prepare(folder: Path) -> None:
        lines.prepare(folder)

    says = "nothing finished lost or done again; in the end the bytes of a run left alone"
    return Attack(f"kills of {job.name}", says, whole, small, prepare, _Kill(job.name), patience=600)


HAS_ARROW = find_spec("pyarrow") is not None
COUNTS = {"pretrain": (40, 0), "finetune": (40, 0), "embed": (40, 1)}
ATTACKS = [
    *(_attack(job, *COUNTS[job.name]) for job in JOBS if HAS_ARROW or job.name != "embed"),
    Attack("kills of save", "the old model or the new one, whole", 40, 3, lines.prepare, strike_save),
]
