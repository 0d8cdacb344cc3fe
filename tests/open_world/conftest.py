"""A model that knows seven digits, and files of the three that it does not know."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.commands import run_command
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.classifier import OpenWorldClassifier


def command(argv: Sequence[str]) -> int:
    """`clip-fewshot open-world ...` in this process."""
    return run_command("open_world", argv, "clip-fewshot open-world")


class Bench(NamedTuple):
    """Folders: a saved model, known pictures, unknown ones, and unknown ones that come later."""

    model: Path
    known: Path
    strange: Path
    fresh: Path


def write(pictures: ImageDataset, rows: np.ndarray[Any, np.dtype[np.int64]], folder: Path) -> None:
    folder.mkdir()
    names, labels = pictures.label_space.names, pictures.required_labels()
    for i in rows.tolist():
        pictures.open(i).save(folder / f"{names[labels[i]]}_{i:04d}.png")


@pytest.fixture(scope="session")
def bench(digits: ImageDataset, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    split = split_open_world(digits, shots=16, unseen=["seven", "eight", "nine"], seed=0)
    model = FewShotClassifier(load_backbone("mini", device="cpu"), "linear-probe", epochs=1)
    folder, rng = tmp_path_factory.mktemp("bench"), np.random.default_rng(0)
    OpenWorldClassifier(model, detector="knn", alpha=0.1).fit(split.support).save(folder / "model")
    novel, test = split.novel.open("test of the commands"), split.test.open("test of the commands")
    order = rng.permutation(len(novel))
    write(test, rng.permutation(len(test))[:60], folder / "known")
    write(novel, order[:150], folder / "strange")
    write(novel, order[150:190], folder / "fresh")
    return Bench(*(folder / name for name in Bench._fields))


@pytest.fixture(scope="session")
def empty(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without pictures, for those who leave it so."""
    folder = tmp_path_factory.mktemp("empty") / "shop"
    assert command(["init", str(folder), str(bench.model)]) == 0
    return folder


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command; what it says on standard output, read where it is JSON."""

    def run(*words: str | Path, code: int = 0) -> Any:
        capsys.readouterr()
        assert command([*map(str, words)]) == code
        out = capsys.readouterr().out
        return json.loads(out) if "--json" in words else out

    return run


@pytest.fixture
def filled(bench: Bench, tmp_path: Path, said: Callable[..., Any]) -> Path:
    store = tmp_path / "shop"
    said("init", store, bench.model)
    said("ingest", store, bench.strange)
    return store
