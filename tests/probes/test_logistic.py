"""The linear probe against scikit-learn's float64 solve, closed relations, and its own contract."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

from clip_fewshot.errors import UsageError
from clip_fewshot.probes import LinearProbe, build_probe
from clip_fewshot.probes.penalty import COARSE, FINEST, SearchedC, chosen, search_penalty, stratified, usable
from clip_fewshot.probes.solver import SoftmaxProblem, principal_rows

MANY = settings(max_examples=25, deadline=None)


def features(c: int = 5, shots: int = 8, d: int = 24, seed: int = 0, spread: float = 0.5):
    """CLIP-like: a large shared mean, classes near each other, a decaying spectrum."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(c), shots)
    centres = rng.normal(size=(c, d)) * spread
    return 2 + centres[y] + rng.normal(size=(len(y), d)) / np.sqrt(1 + np.arange(d)), y


def centred(X):
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    return X - X.mean(axis=0)


def objective(model, X, y, C):
    """scikit-learn's objective, written down a second time."""
    coef, intercept = model.coef_, model.intercept_
    logits = X @ coef.T + intercept
    if len(coef) == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    top = logits.max(axis=1, keepdims=True)
    loss = (np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0] - logits[np.arange(len(y)), y]).sum()
    return C * loss + 0.5 * (coef**2).sum()


@pytest.mark.parametrize("c", [2, 3, 7])
@pytest.mark.parametrize(("shots", "d"), [(1, 30), (6, 40), (30, 10)])
@pytest.mark.parametrize("C", [1e-6, 1e-2, 1.0, 1e2, 1e4])
def test_reaches_the_optimum_of_a_float64_solve(c: int, shots: int, d: int, C: float) -> None:
    X, y = features(c, shots, d)
    ours = LinearProbe(C=C).fit(X, y)
    oracle = LogisticRegression(C=C, tol=1e-8, max_iter=20_000).fit(centred(X), y)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    reached, best = objective(ours, unit, y, C), objective(oracle, centred(X), y, C)
    assert reached <= best * (1 + 1e-9)  # not below it by more than the oracle's own error, which is the next line
    assert reached >= best * (1 - 1e-4)
    assert ours.objective_ == pytest.approx(reached, rel=1e-10)
    assert ours.gradient_norm_**2 / 2 <= 1e-9 * reached  # rounding allows no less at large C
    if C <= 1:  # where the oracle converges
        assert np.allclose(ours.coef_, oracle.coef_, atol=1e-5)
        assert (ours.predict(X) == oracle.predict(centred(X))).all()


@MANY
@given(st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 300.0]), st.integers(2, 5))
def test_gradient_is_zero_at_the_end_and_equal_to_differences(seed: int, C: float, c: int) -> None:
    X, y = features(c, 4, 9, seed)
    problem = SoftmaxProblem.of(principal_rows(X).rows, y, c)
    rng = np.random.default_rng(seed)
    weights, step = rng.normal(size=problem.start().shape), rng.normal(size=problem.start().shape)
    high, low = (problem.objective(weights + s * step, C)[0] for s in (1e-5, -1e-5))
    value, gradient, _ = problem.objective(weights, C)
    assert np.vdot(gradient, step) == pytest.approx((high - low) / 2e-5, rel=1e-5, abs=1e-6 * value)
    solution = problem.solve(C)
    assert solution.gradient_norm == pytest.approx(np.linalg.norm(problem.objective(solution.weights, C)[1]))
    assert solution.gradient_norm <= 1e-5 * max(1.0, solution.objective) ** 0.5


def test_hessian_diagonal_equals_differences_of_the_gradient() -> None:
    X, y = features(3, 5, 6)
    problem = SoftmaxProblem.of(principal_rows(X).rows, y, 3)
    weights = np.random.default_rng(0).normal(size=problem.start().shape)
    expected = np.empty_like(weights)
    for i, j in np.ndindex(*weights.shape):
        step = np.zeros_like(weights)
        step[i, j] = 1e-5
        high, low = (problem.objective(weights + s * step, 7.0)[1][i, j] for s in (1, -1))
        expected[i, j] = (high - low) / 2e-5
    assert np.allclose(problem.hessian_diagonal(problem.objective(weights, 7.0)[2], 7.0), expected, rtol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(5, 30), (40, 7), (6, 6)])
def test_principal_rows_lose_nothing(n: int, d: int) -> None:
    X = np.random.default_rng(0).normal(size=(n, d)) + 3
    rows, mean, axes = principal_rows(X)
    assert np.allclose(rows @ axes.T + mean, X)
    assert np.allclose(axes.T @ axes, np.eye(axes.shape[1]))
    assert rows.shape[1] <= min(n - 1, d)


@MANY
@given(st.integers(0, 1000))
def test_relations_that_must_leave_predictions_alone(seed: int) -> None:
    """Rotation, a positive factor per row, the order of rows, the names of classes."""
    X, y = features(4, 6, 12, seed)
    rng = np.random.default_rng(seed)
    probe = LinearProbe(C=10.0).fit(X, y)
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    factor = rng.uniform(0.1, 10, size=(len(X), 1))
    order = rng.permutation(len(X))
    for other, rows in (
        (LinearProbe(C=10.0).fit(X @ turn, y), X @ turn),
        (LinearProbe(C=10.0).fit(X * factor, y), X),
        (LinearProbe(C=10.0).fit(X[order], y[order]), X),
    ):
        assert np.allclose(other.decision_function(rows), probe.decision_function(X), atol=1e-4)
    names = np.array(["d", "a", "c", "b"])
    named = LinearProbe(C=10.0).fit(X, names[y])
    assert (named.predict(X) == names[probe.predict(X)]).all()
    assert np.allclose(named.predict_proba(X)[:, np.argsort(np.argsort(names))], probe.predict_proba(X), atol=1e-5)


def test_search_finds_what_a_full_grid_finds() -> None:
    X, y = load_digits(return_X_y=True)
    X, y = X[:200], y[:200]
    rows = principal_rows(X / np.linalg.norm(X, axis=1, keepdims=True)).rows
    problem, folds = SoftmaxProblem.of(rows, y, 10), stratified(y, 3, 0)
    found = chosen(search_penalty(problem, y, folds))
    grid = []
    for exponent in np.arange(-2, 6.01, 0.25):
        nll = 0.0
        for train, held in folds:
            logits = problem.rows[held] @ problem.subset(train).solve(10**exponent).weights
            logits -= np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) + logits.max(
                1, keepdims=True
            )
            nll -= logits[np.arange(len(held)), y[held]].sum() / len(y)
        grid.append(SearchedC(10**exponent, 0.0, nll))
    assert found.nll <= min(s.nll for s in grid) + 0.011
    assert abs(np.log10(found.C / chosen(grid).C)) <= 0.3


def test_search_tries_few_values_on_the_fine_grid() -> None:
    X, y = features(5, 12, 24)
    probe = LinearProbe(folds=3).fit(X, y)
    exponents = np.log10([s.C for s in probe.search_])
    assert np.allclose(exponents / FINEST, np.round(exponents / FINEST))
    assert exponents[0] == -6
    assert (np.diff(exponents) > 0).all()
    assert len(exponents) <= 7 + 2 * np.log2(COARSE / FINEST)
    assert probe.C_ == chosen(probe.search_).C


def test_an_edge_of_the_range_is_reported() -> None:
    X, y = features(4, 8, 40)
    noise = np.random.default_rng(0).permutation(y)
    low = LinearProbe(folds=4).fit(X, noise)
    assert (low.C_, low.C_at_edge_) == (1e-6, True)
    assert "end of the range" in low.note_
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
    rows = principal_rows(X / np.linalg.norm(X, axis=1, keepdims=True)).rows
    assert ours.search_ == search_penalty(SoftmaxProblem.of(rows, y, 3), y, folds)
    assert twice.search_ != ours.search_


def test_one_image_per_class_takes_the_default_and_says_so() -> None:
    X, y = features(6, 1, 16)
    probe = LinearProbe().fit(X, y)
    assert (probe.C_, probe.search_) == (100.0, ())
    assert "too few images" in probe.note_
    assert probe.score(X, y) == 1.0


def test_a_class_with_one_image_among_larger_ones() -> None:
    X, y = features(3, 8, 12)
    keep = np.append(np.flatnonzero(y < 2), np.flatnonzero(y == 2)[:1])
    probe = LinearProbe(folds=4).fit(X[keep], y[keep])
    assert probe.search_
    assert list(probe.classes_) == [0, 1, 2]
    folds = usable(stratified(y[keep], 4, 0), y[keep])
    assert all(set(y[keep][held]) <= set(y[keep][train]) for train, held in folds)


@MANY
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(2, 6), st.integers(0, 99))
def test_folds_are_a_partition_and_balanced(counts: list[int], n_folds: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    folds = stratified(labels, n_folds, seed)
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(len(labels)))
    for train, held in folds:
        assert sorted(np.concatenate([train, held])) == list(range(len(labels)))
    per_class = np.array([[np.sum(labels[held] == c) for c in range(len(counts))] for _, held in folds])
    assert (per_class.max(axis=0) - per_class.min(axis=0) <= 1).all()
    assert np.ptp(per_class.sum(axis=1)) <= 1


def test_same_seed_same_bytes_and_the_seed_is_only_for_folds() -> None:
    X, y = features(4, 7, 20)
    first, second = (LinearProbe(folds=3, seed=5).fit(X, y) for _ in range(2))
    assert first.coef_.tobytes() == second.coef_.tobytes()
    assert LinearProbe(C=1.0, seed=1).fit(X, y).coef_.tobytes() == LinearProbe(C=1.0).fit(X, y).coef_.tobytes()


@pytest.mark.parametrize("names", [None, ["x", "yy", "zzz"]])
def test_arrays_carry_the_probe_without_pickle(names) -> None:
    X, y = features(3, 6, 10)
    probe = LinearProbe(C=3.0).fit(X, y if names is None else np.array(names, dtype=object)[y])
    file = io.BytesIO()
    np.savez(file, **probe.to_arrays())
    file.seek(0)
    loaded = LinearProbe.from_arrays(np.load(file, allow_pickle=False))
    assert loaded.predict_proba(X).tobytes() == probe.predict_proba(X).tobytes()
    assert (loaded.predict(X) == probe.predict(X)).all()


def test_mistakes_are_explained() -> None:
    X, y = features(3, 4, 6)
    with pytest.raises(UsageError, match="C > 0, got -1"):
        LinearProbe(C=-1).fit(X, y)
    with pytest.raises(UsageError, match="at least 2 folds, got 1"):
        LinearProbe(folds=1).fit(X, y)
    with pytest.raises(UsageError, match="at least 2 classes"):
        LinearProbe().fit(X, np.zeros(len(X), dtype=int))
    with pytest.raises(UsageError, match=r"\['head', 'logistic'\], got 'svm'"):
        build_probe("svm")


def test_beats_an_unconverged_scikit_learn_at_large_C() -> None:
    """The reason this class exists: a default-tolerance fit stops short of the optimum."""
    X, y = features(20, 8, 96, spread=0.25)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    ours = LinearProbe(C=100).fit(X, y)
    loose = LogisticRegression(C=100).fit(unit.astype(np.float32), y)
    assert objective(ours, unit, y, 100.0) < 0.999 * objective(loose, unit, y, 100.0)


# scipy's array API stays off unless an environment variable was set before its import.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_passes_scikit_learns_own_checks() -> None:
    results = check_estimator(LinearProbe(), on_fail=None)
    assert not [r["check_name"] for r in results if r["status"] not in ("passed", "skipped")]
    assert Counter(r["status"] for r in results)["passed"] >= 54
