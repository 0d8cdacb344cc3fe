"""Spark in earnest: Java, a local master and a local cluster of two executors, against one process and torchrun."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clip_fewshot.backbones.backbone import build_backbone
from clip_fewshot.commands import embed, finetune, pretrain
from clip_fewshot.features.table import read_features
from tests.cli.command import ENVIRONMENT, ROOT
from tests.conftest import TINY
from tests.spark.driver import ARCHITECTURE, TABLE, training, tuning

Weights = dict[str, torch.Tensor]

pytestmark = pytest.mark.spark

PICTURES = 13
# Java that lives for seconds: its second compiler and a collector of many threads cost more than they save.
JAVA = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
MODEL = "model.safetensors"
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
    finetune.main(tuning(place, "tuned alone", spark=False))
    embed.main(embed.Options(data=str(pairs), out=str(place / "alone" / TABLE), model="mini", device="cpu"))
    return place


def run(*command: object, master: str = "") -> None:
    """A process of its own: Java is not for the process of the tests."""
    submit = {"PYSPARK_SUBMIT_ARGS": f"--master {master} pyspark-shell"} if master else {}
    environment = {**os.environ, **ENVIRONMENT, **JAVA, **submit}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr


def distance(one: Weights, other: Weights) -> float:
    """Between the two numbers that are furthest apart."""
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def check_weights(folder: Path, out: str) -> Weights:
    """Those of one process to rounding, and not those it began with (defect 8)."""
    got = load_file(folder / out / MODEL)
    assert distance(got, load_file(folder / "alone" / MODEL)) < STEP / 20
    assert distance(got, build_backbone(TINY, 0).state_dict()) > STEP
    return got


def check_table(folder: Path) -> None:
    got, alone = (read_features(folder / name / TABLE) for name in ("local", "alone"))
    assert got.digests == alone.digests
    assert got.backbone == alone.backbone
    assert len(got) == PICTURES
    assert np.abs(got.features - alone.features).max() < 1e-6


def test_this_machine_tunes_and_embeds_as_one_process_and_says_what_failed(folder: Path) -> None:
    run("-m", "tests.spark.driver", folder, "local", "others", master="local[2]")
    tuned, alone, first = (load_file(folder / name / MODEL) for name in ("local/model", "tuned alone/model", "alone"))
    assert distance(tuned, alone) < STEP / 20
    assert distance(tuned, first) > STEP
    check_table(folder)
    assert (folder / "refused").read_text() == "UsageError: poems/: expected pictures, got poems; look at them"
    died = (folder / "died").read_text()
    assert died.startswith(
        "ResourceError: Spark: expected all 2 processes to the end, got rank 1 that ended with exit code -9"
    )


def test_a_cluster_of_two_executors_trains_as_torchrun_does(folder: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "experiments.pretrain"]
    options = ["--model", folder / ARCHITECTURE, "--steps", 4, "--batch", 7, "--warmup", 0, "--validation", 4]
    with ThreadPoolExecutor(1) as meanwhile:  # a cluster starts one part after the other, and leaves a core idle
        typed = [*torchrun, folder / "pairs", *options, "--device", "cpu", "--out", folder / "torchrun"]
        by_torchrun = meanwhile.submit(run, *typed)
        run("-m", "tests.spark.driver", folder, "cluster", "pretrain", master="local-cluster[2,1,1024]")
        by_torchrun.result()
    assert distance(check_weights(folder, "cluster"), check_weights(folder, "torchrun")) == 0
