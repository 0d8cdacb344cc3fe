"""Detectors and their p-values as torch modules say what NumPy says: the first proof of an export."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.novelty import DETECTORS, KNNDetector
from clip_fewshot.novelty.base import needs_no_refits
from clip_fewshot.open_world.p_value_graphs import CalibratedGraph, rank
from clip_fewshot.open_world.score_graphs import EXPORTED, GRAPHS, build_score
from clip_fewshot.types import FloatArray, LabelArray

WIDTH, TEXTS = 12, np.eye(12)[:3]
SIZES = {"even": (5, 5, 5), "one alone": (1, 4, 6), "many": (30, 30, 30), "past 256": (100, 90, 80)}


def known(sizes: tuple[int, ...]) -> tuple[FloatArray, LabelArray]:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(0).normal(size=(len(labels), WIDTH)) + 3 * np.eye(WIDTH)[labels], labels


def asked(rows: FloatArray) -> FloatArray:
    """New pictures of the three classes and of a fourth, and copies of known ones."""
    random = np.random.default_rng(1)
    fresh = random.normal(size=(40, WIDTH)) + 3 * np.eye(WIDTH)[random.integers(0, 4, 40)]
    return np.concatenate([fresh, 2 * rows[:3]])


def make(name: str) -> Any:
    kind: Any = DETECTORS[name]
    return kind(concepts=TEXTS) if kind.needs_texts else kind()


def run(graph: Any, rows: FloatArray) -> FloatArray:
    found: FloatArray = graph(torch.from_numpy(unit_rows(rows))).numpy()
    return found


def test_the_list_of_what_can_be_exported_is_true() -> None:
    assert {DETECTORS[name] for name in EXPORTED.split()} == set(GRAPHS)


@pytest.mark.parametrize("sizes", ["even", "one alone", "many"])
@pytest.mark.parametrize("name", EXPORTED.split())
def test_scores_are_those_of_the_detector_with_and_without_each_row(name: str, sizes: str) -> None:
    X, y = known(SIZES[sizes])
    detector = make(name).fit(X, y)
    leaves_out = needs_no_refits(detector)
    graph = build_score(detector, leaves_out)
    np.testing.assert_allclose(run(graph, asked(X)), detector.score_samples(asked(X)), rtol=1e-11, atol=1e-11)
    if leaves_out:
        np.testing.assert_allclose(
            run(graph.without, asked(X)), detector.score_without(asked(X)), rtol=1e-11, atol=1e-11
        )


@pytest.mark.parametrize("how", ["levelled", "pooled", "per_class"])
@pytest.mark.parametrize("sizes", ["even", "many", "past 256"])
@pytest.mark.parametrize("name", [name for name in EXPORTED.split() if DETECTORS[name].scheme])
def test_p_values_are_those_of_the_calibration(name: str, sizes: str, how: str) -> None:
    X, y = known(SIZES[sizes])
    scheme = DETECTORS[name].scheme
    assert scheme is not None
    options = {} if how == "pooled" else {how: True}
    calibrated = Calibrated(lambda: make(name), scheme, **options).fit(X, y)
    expected = calibrated.p_values(asked(X))
    found = run(CalibratedGraph(calibrated), asked(X))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert found[-1] == 1  # a copy of what is known
    assert len(np.unique(expected)) > 5


def test_ranks_count_ties_and_lie_between_their_neighbours() -> None:
    own = torch.tensor([[0.0], [2], [2.5], [2.25], [4]], dtype=torch.float64)
    members = torch.tensor([[1.0, 2, 2, 3]], dtype=torch.float64).expand(5, -1)
    between = [1 / 5, 4 / 5, 3.5 / 5, 3.25 / 5, 1]
    np.testing.assert_allclose(rank(members, own, interpolated=True).numpy(), between)
    np.testing.assert_allclose(rank(members, own, interpolated=False).numpy(), [1 / 5, 4 / 5, 4 / 5, 4 / 5, 1])


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_every_number_of_neighbours_enters_as_in_the_bag(k: int, mean: bool) -> None:
    X, y = known((9, 7, 8))
    calibrated = Calibrated(lambda: KNNDetector(k, mean), "full", levelled=True).fit(X, y)
    found = run(CalibratedGraph(calibrated), asked(X))
    np.testing.assert_allclose(found, calibrated.p_values(asked(X)), rtol=0, atol=1e-9)


def test_what_has_no_module_is_named() -> None:
    X, y = known((6, 6))
    with pytest.raises(UsageError, match=r"class-mean energy knn .* got LOFDetector"):
        build_score(DETECTORS["lof"]().fit(X, y))
    refits = Calibrated(DETECTORS["class-mean"], "full").fit(X, y)
    with pytest.raises(UsageError, match="not fitted again for each picture, got Full of 12 known pictures"):
        CalibratedGraph(refits)
