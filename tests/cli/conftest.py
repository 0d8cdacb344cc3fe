"""Inputs of a run that takes seconds, and one such run from beginning to end."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.folder import save_backbone
from clip_fewshot.runtime import rng
from tests.cli.command import fork
from tests.cli.runs import TRIALS, Whole


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def options(inputs: Path) -> list[str]:
    """A run of about three seconds."""
    words = f"--shots 3 --unseen wasp --trials {TRIALS} --seeds 1 --epochs 1 --max-unfreeze 2 --alpha 0.2"
    where = ["--data", str(inputs / "photos"), "--model", str(inputs / "tiny")]
    return [*where, *words.split(), "--approaches", "mlp-arcface,contrastive"]


@pytest.fixture(scope="session")
def whole(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out = tmp_path_factory.mktemp("whole")
    fork(out / "streams", "few_shot", "--alpha", "2").wait()  # the server starts, which is not to be measured
    began = time.monotonic()
    ended = fork(out / "streams", "few_shot", *options, "--out", out / "run").wait()
    return Whole(out / "run", ended, time.monotonic() - began)
