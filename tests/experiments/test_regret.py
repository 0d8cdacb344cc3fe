"""The regret of the study: what it is compared with, and what the figures are."""

from __future__ import annotations

import json

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.protocol.refits import Task
from experiments import regret


def test_the_grid_has_every_cell_once(tiny: Backbone, split: OpenWorldSplit) -> None:
    task = Task(tiny, split.pool, 4, TrainSettings(epochs=1, min_steps=2), views=1, seed=0)
    cells = [json.dumps(point.to_json(), sort_keys=True) for point in regret.grid(2, task)]
    assert len(set(cells)) == len(cells)
    # mlp at N = 0 has 3 head rates, else 9; with margin and scale 12 and 36; contrastive at N = 1 and 2.
    assert len(cells) == 3 + (3 + 2 * 9) + (12 + 2 * 36) + 2 * 3 + 2 * 6


def test_regret_is_what_the_best_cell_has_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(regret, "GRID", {"head_lr": (1e-3,)})
    monkeypatch.setattr(regret, "TrainSettings", lambda: TrainSettings(epochs=1, min_steps=2))
    options = regret.Options(data="digits", shot_counts=(2,), trials=5, max_unfreeze=0, seeds=2, json=True)
    assert regret.main(options) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["best_accuracy"] - row["accuracy"] == pytest.approx(row["regret"]["mean"])
    assert len(row["regret"]["per_seed"]) == len(row["chosen"]) == 2
    assert np.all(np.abs(row["regret"]["per_seed"]) < 0.2)
