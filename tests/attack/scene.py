"""What the attacks are made on: pictures, a tiny backbone, and one of everything that the library writes.

Every part is made once below a folder and found there afterwards. Nothing of it is random but by seed 0.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.backbones.folder import save_backbone
from clip_fewshot.contrastive.finetuning import FineTuning, make_tunable
from clip_fewshot.contrastive.options import ContrastiveOptions
from clip_fewshot.contrastive.tuned_files import save_tuned
from clip_fewshot.features.table import embed_files, write_features
from clip_fewshot.open_world.store.review import Review
from clip_fewshot.protocol.sort_pictures import PictureSorter
from clip_fewshot.runtime.files import write_json
from tests.conftest import TINY
from tests.contrastive.pairs import CONFIG, patterns

NAMES = ("ant", "bee", "fly", "wasp")
STRANGE = ("moth", "tick")
SEARCH = "--shots 3 --unseen wasp --trials 4 --seeds 1 --epochs 1 --max-unfreeze 1 --alpha 0.2 --approaches mlp"


def once(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    """``folder``/``name``, made by ``make(path)`` where it is not there; a kill leaves nothing by half."""
    made = folder / name
    if not made.exists():
        half = folder / f"making {name}"
        shutil.rmtree(half, ignore_errors=True)
        half.parent.mkdir(parents=True, exist_ok=True)
        make(half)
        half.rename(made)
    return made


@cache
def tiny() -> cf.Backbone:
    """The backbone of all parts; weights of seed 0."""
    return build_backbone(TINY, seed=0, name="tiny")


def _draw(folder: Path, names: tuple[str, ...], count: int) -> None:
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j in range(count):
            noise = np.random.default_rng([ord(name[0]), i, j]).integers(0, 120, (20, 24, 3))
            colour = 60 * np.eye(3)[i % 3] + 40 * (i // 3)
            Image.fromarray((noise + colour).astype(np.uint8)).save(folder / name / f"{j}.png")


def photos(folder: Path) -> Path:
    """Ten pictures of each of four classes."""
    return once(folder, "photos", lambda to: _draw(to, NAMES, 10))


def strange(folder: Path) -> Path:
    """Eight pictures of each of two other classes, in one folder."""
    return once(folder, "strange", lambda to: _draw(to, STRANGE, 8))


def model(folder: Path) -> Path:
    """The backbone as a folder."""
    return once(folder, "tiny", lambda to: save_backbone(tiny(), to, half=False))


@cache
def _split(folder: Path) -> cf.OpenWorldSplit:
    return cf.split_open_world(cf.read_dataset(photos(folder)), shots=4, unseen=0, seed=0)


def fit_world(folder: Path, seed: int = 0) -> cf.OpenWorldClassifier:
    """A classifier with a trained layer, so that what it saves holds pictures too."""
    classifier = cf.FewShotClassifier(tiny(), "mlp", epochs=1, unfreeze=1, seed=seed)
    return cf.OpenWorldClassifier(classifier, detector="knn", alpha=0.25).fit(_split(folder).support)


def world(folder: Path) -> Path:
    """A saved open-world model on which a class was named."""

    def make(to: Path) -> None:
        fitted = fit_world(folder)
        fitted.name(sorted((strange(folder) / "moth").iterdir())[:3], "moth")
        fitted.save(to)

    return once(folder, "world", make)


def store(folder: Path) -> Path:
    """A store with pictures, a naming and an undo."""

    def make(to: Path) -> None:
        with cf.Store.create(to, fit_world(folder)) as made:
            made.ingest(cf.read_images([strange(folder), photos(folder) / "ant"]), 8)
            free = cf.read_images([strange(folder)]).digests  # of whichever state
            made.name(free[:3], "moth")
            made.name(free[3:5], "tick")
            made.undo()

    return once(folder, "store", make)


def review(folder: Path) -> Path:
    """A review of that store, as its page saves it."""

    def make(to: Path) -> None:
        with cf.Store.open(store(folder), tiny()) as made:
            free = cf.read_images([strange(folder)]).digests[3:]
            decided = Review(made.id, made.revision, {"tick": free[:2]}, {"moth": free[2:3]}, free[3:4])
        write_json(to / "review.json", decided.to_json())

    return once(folder, "review", make)


def sorted_pictures(folder: Path) -> Path:
    """Copies of pictures in folders by class, as `predict --sort-into` leaves them."""

    def make(to: Path) -> None:
        files = sorted(strange(folder).rglob("*.png"))
        PictureSorter(to, files).add([None, *["moth"] * (len(files) - 1)])

    return once(folder, "sorted", make)


def search(folder: Path) -> Path:
    """A run of the main job, finished."""

    def make(to: Path) -> None:
        words = SEARCH.split()
        given = {key[2:].replace("-", "_"): value for key, value in zip(words[::2], words[1::2], strict=True)}
        numbers = {key: int(given[key]) for key in ("shots", "trials", "seeds", "epochs", "max_unfreeze")}
        options = {**given, **numbers, "alpha": 0.2, "approaches": ("mlp",)}
        cf.run_few_shot(cf.FewShotConfig.of(data=str(photos(folder)), model=str(model(folder)), out=str(to), **options))

    return once(folder, "search", make)


def table(folder: Path) -> Path:
    """A feature table."""

    def make(to: Path) -> None:
        to.mkdir()
        write_features(to / "features.parquet", embed_files(tiny(), sorted(photos(folder).glob("*/*.png"))))

    return once(folder, "table", make)


def train(folder: Path) -> cf.Backbone:
    """Four steps, with a checkpoint in ``folder``; none where it is finished already."""
    options = ContrastiveOptions(steps=4, learning_rate=1e-3)
    return cf.train_contrastive(build_backbone(CONFIG), patterns(2), options, folder=folder, resume=True)


def training(folder: Path) -> Path:
    """A training with its checkpoint."""
    return once(folder, "training", train)


def tuned(folder: Path) -> Path:
    """Attention heads beside the tiny backbone."""
    return once(folder, "tuned", lambda to: save_tuned(make_tunable(tiny(), FineTuning(0, head="attention")), to))


def encode(folder: Path) -> Any:
    """Features of the pictures by way of the cache that the environment names."""
    return cf.encode_images(tiny(), cf.read_dataset(photos(folder)))


def shelves(folder: Path) -> Path:
    """A cache with the features of the pictures."""

    def make(to: Path) -> None:
        before = os.environ.get("CLIP_FEWSHOT_CACHE")
        os.environ["CLIP_FEWSHOT_CACHE"] = str(to)
        try:
            encode(folder)
        finally:
            os.environ.pop("CLIP_FEWSHOT_CACHE")
            os.environ.update({} if before is None else {"CLIP_FEWSHOT_CACHE": before})

    return once(folder, "shelves", make)


def captioned(folder: Path) -> Path:
    """Twelve pictures with captions beside them, and the architecture of a model for them."""

    def make(to: Path) -> None:
        to.mkdir()
        for i in range(12):
            pixels = np.random.default_rng([7, i]).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(to / f"{i}.png")
            (to / f"{i}.txt").write_text(f"picture number {i}\nthe {i}. one\n")

    size = {"embed_dim": 16, "image_size": 16, "patch_size": 8}
    towers = {f"{tower}_{what}": n for tower in ("vision", "text") for what, n in
              (("layers", 1), ("width", 64), ("heads", 1))}  # fmt: skip
    if not (folder / "architecture.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "architecture.json").write_text(json.dumps(size | towers))
    return once(folder, "captioned", make)


def fingerprint(value: Any) -> str:
    """A digest of anything that a reader returns: equal for equal content, of whatever precision and order."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().numpy()
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes() if value.dtype != object else repr(value).encode())
        elif isinstance(value, bytes):
            digest.update(b"bytes" + value)
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                add(str(key))
                add(value[key])
        elif isinstance(value, (list, tuple)):
            digest.update(f"[{len(value)}".encode())
            for item in value:
                add(item)
        elif is_dataclass(value) and not isinstance(value, type):
            add({field.name: getattr(value, field.name) for field in fields(value)})
        else:
            digest.update(f"{type(value).__name__}{value!r}".encode("utf-8", "surrogatepass"))

    add(value)
    return digest.hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder with a digest of what is there; times do not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path.relative_to(folder))] = "folder"
    return found
