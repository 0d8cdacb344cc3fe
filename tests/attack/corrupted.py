"""Files that this library wrote, damaged and read back: refused by our own error, or read as they were.

Damage that changes nothing that is read (a blank in JSON, a free page of SQLite) is "same". A cache is different:
what is damaged there is computed again, so any answer but the right one is a fault, and so is a refusal.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import clip_fewshot as cf
from clip_fewshot.contrastive.tuned_files import load_tuned
from clip_fewshot.features.table import read_features
from clip_fewshot.few_shot.search.record import read_trials
from clip_fewshot.open_world.store.review import Review
from tests.attack import scene
from tests.attack.harness import Attack, Outcome


class Kind(NamedTuple):
    """Something that is written and read.

    Attributes:
        make: folder of the scene -> the folder of the artefact.
        read: (folder of the scene, folder of the artefact) -> all that a user can read of it.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path, Path], Any]


def _read_store(folder: Path, path: Path) -> Any:
    with cf.Store.open(path, scene.tiny()) as store:
        digests = cf.read_images([scene.strange(folder), scene.photos(folder) / "ant"]).digests
        unknown = store.unknown()
        told = [store.id, store.revision, store.status(), store.history(), store.held(digests)]
        store.check()
        return [*told, unknown.features, unknown.p_values, store.thumbnails(digests), store.world.to_artifact()]


def _read_cache(folder: Path, path: Path) -> Any:
    os.environ["CLIP_FEWSHOT_CACHE"] = str(path)
    return scene.encode(folder).features


def _read_checkpoint(folder: Path, path: Path) -> Any:
    return scene.train(path).state_dict()


KINDS = (
    Kind("trials", lambda folder: scene.search(folder) / "trials", lambda _, path: read_trials(path)),
    Kind("feature table", scene.table, lambda _, path: read_features(path / "features.parquet")),
    Kind("store", scene.store, _read_store),
    Kind(
        "saved classifier", scene.world, lambda _, path: cf.OpenWorldClassifier.load(path, scene.tiny()).to_artifact()
    ),
    Kind("saved backbone", scene.model, lambda _, path: cf.load_backbone(path, device="cpu").state_dict()),
    Kind("checkpoint", scene.training, _read_checkpoint),
    Kind("tuned heads", scene.tuned, lambda _, path: load_tuned(path, scene.tiny()).state_dict()),
    Kind("cache", scene.shelves, _read_cache),
    Kind("review", scene.review, lambda _, path: Review.read(path / "review.json")),
)
NOT_READ = {".lock", "metrics.jsonl", ".decisions.lock"}


def damage(data: bytes, draw: np.random.Generator) -> bytes:
    """One of ten ways in which a disk, a copy or an editor changes a file; most often a single bit."""
    if not data:
        return b"\0"
    at = int(draw.integers(len(data)))
    size = int(min(draw.integers(1, 64), len(data) - at))
    way = draw.choice(10, p=[0.4, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.1, 0.05, 0.05])
    flipped = bytes([data[at] ^ 1 << int(draw.integers(8))])
    digits = [i for i in range(max(0, at - 200), min(len(data), at + 200)) if data[i : i + 1].isdigit()]
    digit = int(draw.choice(digits)) if digits else at
    return {
        0: lambda: data[:at] + flipped + data[at + 1 :],
        1: lambda: data[:at] + bytes([int(draw.integers(256))]) + data[at + 1 :],
        2: lambda: data[:at],
        3: lambda: data[:at] + data[at + size :],
        4: lambda: data[:at] + draw.bytes(size) + data[at:],
        5: lambda: data[:at] + bytes(size) + data[at + size :],
        6: lambda: data[:at] + data[at : at + size] + data[at:],
        7: lambda: data[:digit] + b"%d" % draw.integers(10) + data[digit + 1 :],
        8: lambda: data + draw.bytes(size),
        9: lambda: data[at:] + data[:at],
    }[int(way)]()


@cache
def _right(kind: Kind, folder: Path) -> str:
    copy = folder / "work" / f"right {kind.name}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(kind.make(folder), copy)
    return scene.fingerprint(kind.read(folder, copy))


def strike(kind: Kind, folder: Path, draw: np.random.Generator, number: int) -> Outcome:
    right, copy = _right(kind, folder), folder / "work" / kind.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(kind.make(folder), copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.name not in NOT_READ)
    hit = files[int(draw.integers(len(files)))]
    before = hit.read_bytes()
    hit.write_bytes(after := damage(before, draw))
    again = f"damaged {hit.relative_to(copy)} from byte {_first(before, after):,}"
    try:
        found = scene.fingerprint(kind.read(folder, copy))
    except cf.ClipFewShotError as error:
        return Outcome(kind.name != "cache", "refused", again if kind.name == "cache" else type(error).__name__)
    except Exception as error:
        return Outcome(False, f"raw {type(error).__name__}", f"{again}: {error}"[:300])
    return Outcome(True, "same") if found == right else Outcome(False, "read differently", again)


def _first(before: bytes, after: bytes) -> int:
    shorter = min(len(before), len(after))
    unequal = np.flatnonzero(np.frombuffer(before[:shorter], np.uint8) != np.frombuffer(after[:shorter], np.uint8))
    return int(unequal[0]) if len(unequal) else shorter


def _attack(kind: Kind) -> Attack:
    def prepare(folder: Path) -> None:
        kind.make(folder)

    return Attack(
        f"corrupted {kind.name}",
        "refused by our own error, or read as it was" if kind.name != "cache" else "computed again, the same",
        5000,
        12,
        prepare,
        _Strike(kind.name),
    )


class _Strike(NamedTuple):
    """A strike that goes to another process by the name of its kind."""

    name: str

    def __call__(self, folder: Path, draw: np.random.Generator, number: int) -> Outcome:
        return strike(next(kind for kind in KINDS if kind.name == self.name), folder, draw, number)


HAS_ARROW = find_spec("pyarrow") is not None
ATTACKS = [_attack(kind) for kind in KINDS if HAS_ARROW or kind.name != "feature table"]
