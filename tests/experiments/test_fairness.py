"""The measurement of fairness at a small size: levelled scores spread false alarms, and the counts are counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.fairness import summarise
from tests.commands.conftest import Command


def test_a_small_run(command: Command, tmp_path: Path) -> None:
    """Ten classes from tight to loose."""
    rng, y = np.random.default_rng(0), np.repeat(np.arange(10), 60)
    centres = rng.normal(size=(10, 16))
    X = centres[y] + rng.normal(size=(600, 16)) * (0.15 + 0.1 * y)[:, None]
    np.savez(tmp_path / "a.npz", X=X, y=y, T=centres)
    ended = command("fairness", tmp_path / "a.npz", "--shot-counts", "4,16", "--seeds", 6, "--json")
    assert (ended.code, ended.err) == (0, "")
    rows = {(row["shots"], row["ranked"]): row for row in ended.record["rows"]}
    assert list(rows) == [(4, "pooled"), (4, "levelled"), (16, "pooled"), (16, "levelled"), (16, "per class")]
    assert rows[16, "levelled"]["worst_class"] < 0.7 * rows[16, "pooled"]["worst_class"]
    assert rows[16, "levelled"]["found"] > 1.3 * rows[16, "per class"]["found"]


def test_a_class_is_above_where_chance_does_not_explain_it() -> None:
    labels = np.repeat([3, 7], 100)
    flags = np.concatenate([np.arange(100) < 35, np.arange(100) < 21])
    found = summarise([(labels, flags, np.array([True, False, True, True]))], 0.1)
    assert (found["false_alarms"], found["worst_class"], found["above"], found["found"]) == (0.28, 0.35, 1, 0.75)
