"""Spark in earnest: Java, a local master and a local cluster of two executors, against one process and torchrun."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import clip_fewshot as cf
from experiments import embed, pretrain
from tests.cli.command import ENVIRONMENT, ROOT
from tests.conftest import TINY
from tests.spark.driver import ARCHITECTURE, TABLE, training

pytestmark = pytest.mark.spark

PICTURES = 13
STEP = 5e-4  # peak learning rate; Adam moves a weight by about as much, whatever the size of its gradient


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with captions, a file that is no picture, an architecture, and what one process makes of them."""
    place = tmp_path_factory.mktemp("spark")
    pairs = place / "pairs"
    pairs.mkdir()
    draws = np.random.default_rng(0)
    for i in range(PICTURES):
        Image.fromarray(draws.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(pairs / f"{i}.png")
        (pairs / f"{i}.txt").write_text(f"a photo of number {i % 5}\n")
    (place / ARCHITECTURE).write_text(json.dumps(dataclasses.asdict(TINY)))
    pretrain.main(training(place, "alone", spark=False))
    embed.main(embed.Options(data=str(pairs), out=place / "alone" / TABLE, device="cpu"))
    return place


def run(*command: object, master: str = "") -> None:
    """A process of its own: Java is not for the process of the tests."""
    submit = {"PYSPARK_SUBMIT_ARGS": f"--master {master} pyspark-shell"} if master else {}
    environment = {**os.environ, **ENVIRONMENT, **submit}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check_weights(folder: Path, out: str, twin: str | None) -> None:
    """Those of one process to rounding, those of ``twin`` to the bit, and not those it began with (defect 8)."""
    got, alone = load_file(folder / out / "model.safetensors"), load_file(folder / "alone" / "model.safetensors")
    first = cf.build_backbone(TINY, 0).state_dict()
    assert got.keys() == alone.keys()
    assert max(float((got[key] - alone[key]).abs().max()) for key in got) < STEP / 20
    assert max(float((got[key] - first[key]).abs().max()) for key in got) > STEP
    if twin is not None:
        other = load_file(folder / twin / "model.safetensors")
        assert all(torch.equal(got[key], other[key]) for key in got)


def check_table(folder: Path) -> None:
    got, alone = (cf.read_features(folder / name / TABLE) for name in ("local", "alone"))
    assert got.digests == alone.digests
    assert got.backbone == alone.backbone
    assert len(got) == PICTURES
    assert np.abs(got.features - alone.features).max() < 1e-6


def test_this_machine_trains_and_embeds_as_one_process_and_says_what_failed(folder: Path) -> None:
    run("-m", "tests.spark.driver", folder, "local", "all", master="local[2]")
    check_weights(folder, "local", twin=None)
    check_table(folder)
    assert (folder / "refused").read_text() == "UsageError: poems/: expected pictures, got poems; look at them"
    died = (folder / "died").read_text()
    assert died.startswith(
        "ResourceError: Spark: expected all 2 processes to the end, got rank 1 that ended with exit code -9"
    )


def test_a_cluster_of_two_executors_trains_as_torchrun_does(folder: Path) -> None:
    run("-m", "tests.spark.driver", folder, "cluster", master="local-cluster[2,1,1024]")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "experiments.pretrain"]
    options = ["--model", folder / ARCHITECTURE, "--steps", 4, "--batch", 7, "--warmup", 0, "--validation", 4]
    run(*torchrun, folder / "pairs", *options, "--device", "cpu", "--out", folder / "torchrun")
    check_weights(folder, "torchrun", twin=None)
    check_weights(folder, "cluster", twin="torchrun")
