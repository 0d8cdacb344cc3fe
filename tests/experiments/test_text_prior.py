"""The comparison at a small size: rows, draws that never overlap, and texts that help."""

from __future__ import annotations

import numpy as np

from experiments.text_prior import draw_rows
from tests.commands.conftest import Command

METHODS = 8


def test_a_small_run(command: Command) -> None:
    chosen = ("digits", "--model", "mini", "--shot-counts", 1, "--seeds", 2, "--unlabelled", 10)
    ended = command("text_prior", *chosen, "--json")
    assert (ended.code, ended.err) == (0, "")
    accuracy = {row["method"]: row["accuracy"]["mean"] for row in ended.record["rows"]}
    assert len(accuracy) == METHODS
    assert accuracy["text-prior"] > max(accuracy["frozen probe"], accuracy["random texts"]) + 0.03
    assert accuracy["random texts, unlabelled"] > accuracy["random texts"]
    assert command("text_prior", *chosen).out.count("\n| ") == METHODS


def test_rows_are_drawn_of_each_class_once() -> None:
    labels = np.repeat([0, 1, 2], [5, 3, 4])
    rows = draw_rows(labels, np.array([2, 3, 9]), np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [2, 3, 4]
    assert len(set(rows.tolist())) == len(rows)
