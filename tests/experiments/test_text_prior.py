"""The comparison at a small size: rows, draws that never overlap, and texts that help."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clip_fewshot.geometry import unit_rows
from experiments.label_propagation import NEIGHBOURS, SPREAD, STEEPNESS, propagate
from experiments.text_prior import draw_rows
from tests.commands.conftest import Command

METHODS = 10


def test_a_small_run(command: Command) -> None:
    chosen = ("digits", "--model", "mini", "--shot-counts", 1, "--seeds", 2, "--queries", 10)
    ended = command("text_prior", *chosen, "--json")
    assert (ended.code, ended.err) == (0, "")
    accuracy = {row["method"]: row["accuracy"]["mean"] for row in ended.record["rows"]}
    assert len(accuracy) == METHODS
    assert accuracy["text-prior"] > max(accuracy["frozen probe"], accuracy["random texts"]) + 0.03
    assert accuracy["random texts, unlabelled"] > accuracy["random texts"]
    assert command("text_prior", *chosen).out.count("\n| ") == METHODS


def test_hidden_classes_are_a_fifth_of_the_unlabelled_pictures(command: Command) -> None:
    chosen = ("digits", "--model", "mini", "--shot-counts", 4, "--seeds", 2, "--queries", 20, "--hidden", 3)
    accuracy = {
        row["method"]: row["accuracy"]["mean"] for row in command("text_prior", *chosen, "--json").record["rows"]
    }
    mixed = "random texts, unlabelled, a fifth strange"
    assert accuracy["random texts, unlabelled"] > accuracy[mixed]
    assert accuracy[f"{mixed}, left out"] >= accuracy[mixed]


def test_features_that_were_made_elsewhere(command: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts, y = rng.normal(size=(3, 16)), np.repeat(np.arange(3), 30)
    np.savez(tmp_path / "set.npz", X=texts[y] + 0.5 * rng.normal(size=(90, 16)), y=y, T=texts)
    ended = command("text_prior", tmp_path / "set.npz", "--shot-counts", 1, "--seeds", 1, "--queries", 5, "--json")
    assert (ended.record["n_test"], len(ended.record["rows"])) == (30, METHODS)


def test_propagated_answers_solve_their_equation() -> None:
    rng = np.random.default_rng(0)
    queries, start = unit_rows(rng.normal(size=(30, 5))), rng.dirichlet(np.ones(3), 30)
    found = propagate(start, queries)
    cosines = queries @ queries.T
    near = np.argsort(9 * np.eye(30) - cosines, axis=1)[:, :NEIGHBOURS]
    graph = np.zeros((30, 30))
    for i, row in enumerate(near):
        graph[i, row] = np.exp(STEEPNESS * cosines[i, row])
    graph = np.maximum(graph, graph.T)
    root = np.sqrt(graph.sum(axis=1))
    exact = np.linalg.solve(np.eye(30) - SPREAD * graph / np.outer(root, root), (1 - SPREAD) * start)
    np.testing.assert_allclose(found, exact / exact.sum(axis=1, keepdims=True), atol=0.02)


def test_rows_are_drawn_of_each_class_once() -> None:
    labels = np.repeat([0, 1, 2], [5, 3, 4])
    rows = draw_rows(labels, np.array([2, 3, 9]), np.random.default_rng(0))
    assert np.bincount(labels[rows]).tolist() == [2, 3, 4]
    assert len(set(rows.tolist())) == len(rows)
