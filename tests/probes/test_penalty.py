"""The search for C against a full grid of converged fits; folds; what it reports."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import clip_fewshot.probes.penalty as penalty
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes import LinearProbe
from clip_fewshot.probes.penalty import (
    COARSE,
    FINEST,
    USUAL_EXPONENT,
    WORTHLESS,
    SearchedC,
    UsualC,
    drop_unusable,
    search_penalty,
    select_c,
    split_stratified,
)
from clip_fewshot.probes.softmax import SoftmaxProblem
from clip_fewshot.probes.solver import solve
from tests.probes.synthetic import centred, features

MANY = settings(max_examples=25, deadline=None)


def test_search_finds_what_a_full_grid_finds() -> None:
    X, y = load_digits(return_X_y=True)
    X, y = X[:200], y[:200]
    problem, folds = SoftmaxProblem.from_rows(centred(X), y, 10), split_stratified(y, 3, 0)
    search = search_penalty(problem, folds)
    found = search.chosen
    grid = []
    for exponent in np.arange(-2, 6.01, 0.25):
        nll = 0.0
        for train, held in folds:
            logits = problem.logits(solve(problem.subsets([train]), 10**exponent).weights)[0, held]
            logits -= logits.max(axis=1, keepdims=True)
            logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
            nll -= logits[np.arange(len(held)), y[held]].sum() / len(y)
        grid.append(SearchedC(10**exponent, 0.0, nll))
    assert found.nll <= min(s.nll for s in grid) + 0.011
    assert abs(np.log10(found.C / select_c(grid, UsualC.of(problem, folds)).C)) <= 0.3
    exact = {round(np.log10(s.C), 3): s.nll for s in grid}
    same = [(s.nll, exact[e]) for s in search.tried if (e := round(np.log10(s.C), 3)) in exact]
    assert len(same) >= 5
    assert np.allclose(*zip(*same, strict=True), atol=WORTHLESS / 2)  # the search stops far short of the optimum


def test_few_pictures_leave_c_near_its_usual_value_and_many_decide() -> None:
    grid = [SearchedC(10.0**e, 1.0, 0.1 * 2.0**-e) for e in np.arange(-2, 6.01, 0.25)]
    away = (np.log10([s.C for s in grid]) - 3.5) ** 2 / (2 * 1.5**2)
    for n_held in (4, 30, 1000):
        costs = np.array([s.nll for s in grid]) + away / n_held
        assert select_c(grid, UsualC(3.5, n_held)) == grid[int(np.flatnonzero(costs <= costs.min() + WORTHLESS)[0])]
    flat = [s._replace(nll=0.5) for s in grid]
    assert 2 < np.log10(select_c(flat, UsualC(3.5, 4)).C) <= 3.5
    assert np.log10(select_c(flat, UsualC(3.5, 10**6)).C) == -2  # nothing is worth a larger one
    slope = [s._replace(nll=0.5 - 0.02 * np.log10(s.C)) for s in grid]
    assert np.log10(select_c(slope, UsualC(3.5, 4)).C) < 4 < np.log10(select_c(slope, UsualC(3.5, 10**4)).C)


def test_the_usual_c_goes_with_the_length_of_the_rows() -> None:
    X, y = features(3, 4, 12)
    folds = split_stratified(y, 2, 0)
    wide, narrow = (SoftmaxProblem.from_rows(size * centred(X), y, 3) for size in (1.0, 0.1))
    assert UsualC.of(narrow, folds).exponent == pytest.approx(UsualC.of(wide, folds).exponent + 2)
    assert UsualC.of(wide, folds).n_held == 12


def test_two_pictures_a_class_do_not_throw_c_about() -> None:
    """Without a prior these end anywhere between 1e-6 and 750,000."""
    y = np.array([0, 0, 1, 1])
    found = []
    for seed in range(12):
        X = np.random.default_rng(seed).normal(size=(4, 64))
        X[:, 0] += 1.6 * (2 * y - 1)
        found.append(LinearProbe().fit(X, y).C_)
    assert 100 < min(found) < max(found) < 10_000


def test_search_tries_few_values_on_the_fine_grid() -> None:
    X, y = features(5, 12, 24)
    probe = LinearProbe(folds=3).fit(X, y)
    exponents = np.log10([s.C for s in probe.search_])
    assert np.allclose(exponents / FINEST, np.round(exponents / FINEST))
    assert exponents[0] == -6
    assert (np.diff(exponents) > 0).all()
    assert len(exponents) <= len(COARSE) + 2 * np.log2(1 / FINEST)
    assert probe.C_ in [s.C for s in probe.search_]


def test_an_edge_of_the_range_is_reported() -> None:
    X, y = features(4, 8, 40)
    near = X + 100  # pictures that hardly differ need a large C
    high = LinearProbe(folds=4).fit(near, y)
    assert (high.C_, high.C_at_edge_) == (1e6, True)
    assert "end of the range" in high.note_
    assert not LinearProbe(folds=4).fit(X, y).C_at_edge_


@pytest.mark.parametrize("shots", [2, 3, 8, 11])
def test_folds_that_do_not_divide_the_classes_do_not_end_the_search(shots: int) -> None:
    """A class that is rarer in the training part is more frequent in the held-out part: at small C the loss first
    rises, and a search that stopped there chose C = 1e-6 at 8 shots and lost 2 points of accuracy."""
    X, y = load_digits(return_X_y=True)
    rows = np.concatenate([np.flatnonzero(y == k)[:shots] for k in range(7)])
    probe = LinearProbe(folds=5).fit(X[rows], y[rows])
    assert not probe.C_at_edge_
    assert 10 < probe.C_ < 1e6


def test_given_folds_are_the_ones_used() -> None:
    X, y = features(3, 6, 10)
    folds = [(np.flatnonzero(np.arange(18) % 2 == k), np.flatnonzero(np.arange(18) % 2 != k)) for k in (0, 1)]
    ours, twice = LinearProbe(folds=folds).fit(X, y), LinearProbe(folds=folds[:1] * 2).fit(X, y)
    expected = search_penalty(SoftmaxProblem.from_rows(centred(X), y, 3), folds).tried
    for one, other in zip(ours.search_, expected, strict=True):
        assert one == pytest.approx(other, abs=2e-3)  # rows centred here and there; losses are good to 1e-3
    assert twice.search_ != ours.search_


def test_one_image_per_class_takes_the_usual_value_and_says_so() -> None:
    X, y = features(6, 1, 16)
    probe = LinearProbe().fit(X, y)
    unit = unit_rows(X)
    length = ((unit - unit.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert pytest.approx(10**USUAL_EXPONENT / length, rel=1e-5) == probe.C_
    assert probe.search_ == ()
    assert "too few images" in probe.note_
    assert probe.score(X, y) == 1.0


def test_a_class_with_one_image_among_larger_ones() -> None:
    X, y = features(3, 8, 12)
    keep = np.append(np.flatnonzero(y < 2), np.flatnonzero(y == 2)[:1])
    probe = LinearProbe(folds=4).fit(X[keep], y[keep])
    assert probe.search_
    assert list(probe.classes_) == [0, 1, 2]
    folds = drop_unusable(split_stratified(y[keep], 4, 0), y[keep])
    assert all(set(y[keep][held]) <= set(y[keep][train]) for train, held in folds)


@MANY
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(2, 6), st.integers(0, 99))
def test_folds_are_a_partition_and_balanced(counts: list[int], n_folds: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    folds = split_stratified(labels, n_folds, seed)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(len(labels)))
    for train, held in folds:
        assert sorted(np.concatenate([train, held])) == list(range(len(labels)))
    per_class = np.array([[np.sum(labels[held] == c) for c in range(len(counts))] for _, held in folds])
    assert (per_class.max(axis=0) - per_class.min(axis=0) <= 1).all()
    assert np.ptp(per_class.sum(axis=1)) <= 1


def test_folds_side_by_side_and_one_by_one_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacking is for speed: unequal folds, padded with empty rows, against each alone, which the first one guides."""
    X, y = features(4, 9, 40, spread=0.3)
    folds = [*split_stratified(y, 4, 0), (np.arange(0, 36, 3), np.arange(1, 36, 7))]
    problem = SoftmaxProblem.from_rows(centred(X), y, 4)
    together = search_penalty(problem, folds)
    monkeypatch.setattr(penalty, "SIDE_BY_SIDE_COST", 0)
    apart = search_penalty(problem, folds)
    shared = {s.C: s.nll for s in apart.tried}
    assert np.allclose([s.nll - shared.get(s.C, s.nll) for s in together.tried], 0, atol=WORTHLESS / 2)
    assert abs(np.log10(together.chosen.C / apart.chosen.C)) <= 0.25


def test_the_search_hands_on_weights_near_the_optimum_for_all_rows() -> None:
    X, y = features(4, 9, 40, spread=0.3)
    problem = SoftmaxProblem.from_rows(centred(X), y, 4)
    search = search_penalty(problem, [(np.arange(0, 36, 2), np.arange(1, 36, 2))])
    C = search.chosen.C
    best = solve(problem, C).objective
    begun = problem.evaluate(search.weights.astype(np.float64), C).value
    assert begun < best + 0.5 * (problem.evaluate(problem.start(), C).value - best)
    ours = solve(problem, C, search.weights).objective
    assert np.allclose(ours, best, rtol=2e-6)
