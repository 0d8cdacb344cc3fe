"""A short, valid command line of each command, so that what is changed in it is the only mistake."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from clip_fewshot.commands import COMMANDS, OPEN_WORLD, STORE_COMMANDS
from clip_fewshot.commands.cli.parser import flat_fields
from tests.attack import scene
from tests.attack.apart import fresh

Line = tuple[object, ...]
SMALL = ("--shots", 2, "--seeds", 1)


def prepare(folder: Path) -> None:
    """All that the lines name."""
    for part in (scene.photos, scene.strange, scene.model, scene.world, scene.store, scene.review, scene.captioned):
        part(folder)
    scene.search(folder)
    scene.sorted_pictures(folder)


def lines(folder: Path) -> Mapping[str, Line]:
    """By command; outputs go to the current folder, in which a store lies: see :func:`bench`."""
    photos, tiny, world = scene.photos(folder), ("--model", scene.model(folder)), scene.world(folder)
    store, strange, pairs = "store", scene.strange(folder), scene.captioned(folder)
    short = ("--batch", 4, "--passes", 1)
    found: dict[str, Line] = {
        "few_shot": (photos, *tiny, *scene.SEARCH.split(), "--out", "run"),
        "finetune": (photos, *tiny, *short, "--out", "tuned"),
        "pretrain": (pairs, "--model", folder / "architecture.json", *short, "--validation", 4, "--out", "scratch"),
        "predict": (world, strange, *tiny),
        "zero_shot": (photos, *tiny),
        "retrieve": (photos, *tiny, "--text", "an ant"),
        "embed": (photos, *tiny, "--out", "features.parquet"),
        "linear_probe": (photos, "--models", scene.model(folder), *SMALL),
        "compare": (photos, *tiny, "--approaches", "linear-probe", "--shot-counts", 2, "--seeds", 1, "--reference",
                    "linear-probe", "--out", "compared"),
        "shots": (photos, *tiny, "--approaches", "linear-probe", "--trials", 3, "--shot-counts", 2, "--seeds", 1,
                  "--epochs", 1, "--out", "curves"),
        "novelty": (photos, *tiny, *SMALL, "--unseen", "wasp", "--detectors", "knn", "--alphas", 0.4),
        "discovery": (photos, *tiny, "--hide", "wasp", "--shot-counts", 2, "--seeds", 2, "--alpha", 0.4),
        "modality_gap": (pairs, *tiny),
        "audit": (photos, *tiny),
        "export": (world, *tiny, "--out", "model.onnx"),
        "results": (scene.search(folder), "--out", "runs.csv"),
        "unsort": ("sorted",),
    }  # fmt: skip
    held = ("--model", scene.model(folder))
    of_store: dict[str, Line] = {
        "init": ("shop", world),
        "ingest": (store, strange),
        "status": (store,),
        "discover": (store, "--names", 0),
        "review": (store, "--names", 0),
        "apply": (store, scene.review(folder) / "review.json"),
        "add": (store, "gnat", strange / "tick"),
        "predict": (store, strange),
        "undo": (store,),
        "check": (store,),
        "watch": (store,),
        "export": (store, "--out", "groups.json"),
    }
    of_store = {f"{OPEN_WORLD} {name}": (*line, *(held if name != "status" else ())) for name, line in of_store.items()}
    return {**found, **of_store}


def bench(folder: Path) -> Path:
    """A current folder for one command, with a copy of the store and of sorted pictures."""
    cwd = fresh(folder, "cwd")
    shutil.copytree(scene.sorted_pictures(folder), cwd / "sorted")
    shutil.copytree(scene.store(folder), cwd / "store")
    return cwd


def names() -> list[str]:
    """Commands that have a line here, those over a store as "open_world apply"."""
    return [*(name for name in COMMANDS if name != OPEN_WORLD), *(f"{OPEN_WORLD} {name}" for name in STORE_COMMANDS)]


def options(name: str) -> list[tuple[str, Any]]:
    """(flag, type) of each option of a command that is not given by place."""
    module = import_module(f"clip_fewshot.commands.{name.replace(' ', '.')}")
    return [
        (f"--{field.name.strip('_').replace('_', '-')}", hint)
        for field, hint, _ in flat_fields(module.Options)
        if not field.metadata.get("positional")
    ]
