"""Kills at any moment: what was acknowledged is there, nothing is there twice, and no transaction by half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.open_world.store import rows
from clip_fewshot.open_world.store.store import Store

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are of forked processes")


def crashing(kind: str, folder: Path, count: int, seed: int = 0) -> Any:
    command = [sys.executable, "-m", "tests.open_world.store.crashing", kind, str(folder), str(count), str(seed)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.attack
def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    assert crashing("random", tmp_path, 5)["kills"] == 5


def test_a_kill_between_embedding_and_commit_leaves_nothing_of_the_batch(
    store: Store, strange: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.ingest(strange.subset(np.arange(4)))
    insert = rows.insert

    def last_moment(*args: Any) -> list[int]:
        insert(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rows, "insert", last_moment)
        with pytest.raises(KeyboardInterrupt):
            store.ingest(strange.subset(np.arange(8)))
    assert sum(store.status().states.values()) == 4
    assert store.ingest(strange.subset(np.arange(8)))[::3] == (4, 4)


@pytest.mark.slow
def test_writers_and_readers_at_once(tmp_path: Path) -> None:
    found = crashing("together", tmp_path, 200)
    assert found == {"new": 200, "pictures": 200, "revision": 4, "named": 6, "unknown still": True}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    found = crashing("random", tmp_path, 200, seed=1000)
    assert found["kills"] == 200
    assert found["decisions"] > 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_kill_at_every_statement_leaves_whole_transactions(tmp_path: Path) -> None:
    found = crashing("statements", tmp_path, 10_000)
    assert found["kills"] == found["statements"]
    assert found["states"] == 4  # nothing is left to be killed at once the last transaction has ended
