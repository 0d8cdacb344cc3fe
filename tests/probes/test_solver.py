"""The solver against differences, dense algebra and itself from other starts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from clip_fewshot.probes.preconditioner import STIFF, ExactBlocks, LowRankBlocks, build_blocks
from clip_fewshot.probes.softmax import SoftmaxProblem, centre_rows
from clip_fewshot.probes.solver import descend, solve
from tests.probes.synthetic import centred, features, objective, unit

MANY = settings(max_examples=25, deadline=None)


def problem_of(c: int = 4, shots: int = 6, d: int = 9, seed: int = 0) -> SoftmaxProblem:
    X, y = features(c, shots, d, seed)
    return SoftmaxProblem.from_rows(centred(X), y, c)


def dense_hessian(problem: SoftmaxProblem, weights, C: float):
    """(c (r + 1), c (r + 1)), entry by entry from its definition."""
    p, rows = problem.evaluate(weights, C).probabilities[0], problem.rows[0]
    spread = np.einsum("ik,kl->ikl", p, np.eye(p.shape[1])) - np.einsum("ik,il->ikl", p, p)
    hessian = C * np.einsum("ikl,ia,ib->kalb", spread, rows, rows)
    penalty = np.eye(rows.shape[1])
    penalty[-1, -1] = 0
    hessian += np.einsum("kl,ab->kalb", np.eye(p.shape[1]), penalty)
    size = p.shape[1] * rows.shape[1]
    return hessian.reshape(size, size)


@MANY
@given(st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 300.0]), st.integers(2, 5))
def test_gradient_and_curvature_equal_differences(seed: int, C: float, c: int) -> None:
    problem = problem_of(c, seed=seed)
    rng = np.random.default_rng(seed)
    weights, step = rng.normal(size=problem.start().shape), rng.normal(size=problem.start().shape)
    here = problem.evaluate(weights, C)
    high, low = (problem.evaluate(weights + s * step, C) for s in (1e-5, -1e-5))
    slope = (high.value - low.value)[0] / 2e-5
    assert np.vdot(here.gradient, step) == pytest.approx(slope, rel=1e-5, abs=1e-6 * here.value[0])
    bent = problem.curvature(here.probabilities.astype(np.float32), step.astype(np.float32), C)
    assert np.allclose(bent, (high.gradient - low.gradient) / 2e-5, rtol=1e-3, atol=1e-4 * np.abs(bent).max())
    assert np.allclose(bent.ravel(), dense_hessian(problem, weights, C) @ step.ravel(), atol=1e-5 * np.abs(bent).max())


@pytest.mark.parametrize("certainty", [1.0, 30.0, 80.0])
def test_residuals_keep_their_digits_where_the_label_is_nearly_certain(certainty: float) -> None:
    """p - 1 in float32 would be 0 from 17 nats on; the gradient of a large C lives on what is left."""
    problem = SoftmaxProblem.from_rows(np.ones((1, 1), np.float32), np.array([1]), 3)
    logits = np.array([[[0.0, certainty, 0.5]]], np.float32)
    told = problem.softmax(logits)
    wide = logits[0, 0].astype(np.float64)
    others = np.exp(wide[[0, 2]] - wide[1]).sum()
    assert told.residuals[0, 0, 1] == pytest.approx(-others / (1 + others), rel=1e-5)
    assert told.residuals.sum() == pytest.approx(0, abs=1e-6)
    assert told.right.item() == pytest.approx(1 / (1 + others), rel=1e-6)


@pytest.mark.parametrize("C", [1e-2, 1.0, 100.0])
def test_blocks_of_all_rows_invert_the_diagonal_blocks_of_the_hessian(C: float) -> None:
    """Whole or by Woodbury's identity; in exact arithmetic both are the inverse, less the mean over classes."""
    problem = problem_of(3, 7, 5).single
    weights = np.random.default_rng(0).normal(size=problem.start().shape).astype(np.float32)
    p = problem.evaluate(weights, C).probabilities
    gradient = np.random.default_rng(1).normal(size=weights.shape).astype(np.float32)
    hessian = dense_hessian(problem, weights.astype(np.float64), C).reshape(3, 6, 3, 6)
    expected = np.stack([np.linalg.solve(hessian[k, :, k], gradient[0, k]) for k in range(3)])
    expected -= expected.mean(axis=0)
    weighed = C * (p * (1 - p)).swapaxes(1, 2)
    assert weighed.max() < STIFF
    exact = ExactBlocks.from_rows(problem.rows, weighed, C).solve(gradient)[0]
    assert np.allclose(exact, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    low = LowRankBlocks.from_rows(problem.rows, weighed, C, most=21).solve(gradient)[0]
    off = low - expected
    assert np.vdot(low, gradient) > 0
    assert np.allclose(off[:, :-1], 0, atol=0.1 * np.abs(expected).max())  # its intercepts count their rows twice


@MANY
@given(st.integers(0, 1000), st.sampled_from([1e-6, 1e-2, 1.0, 1e3, 1e6]), st.integers(2, 40))
def test_blocks_are_positive_definite_up_to_the_largest_C(seed: int, C: float, most: int) -> None:
    """Else conjugate gradients stop at once, as they did on repeated rows at C = 1e6."""
    X, y = features(3, 4, 30, seed)
    problem = SoftmaxProblem.from_rows(centred(np.repeat(X, 5, axis=0)), np.repeat(y, 5), 3).single
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=problem.start().shape).astype(np.float32)
    point = problem.evaluate(weights - weights.mean(axis=1, keepdims=True), C)
    blocks = build_blocks(problem.rows, point.probabilities, C, most)
    assert np.vdot(blocks.solve(point.gradient), point.gradient) > 0


@pytest.mark.parametrize(("n", "d"), [(5, 30), (40, 7), (6, 6), (15, 30), (16, 30)])
def test_centred_rows_lose_nothing(n: int, d: int) -> None:
    X = np.random.default_rng(0).normal(size=(n, d)) + 3
    rows, mean, axes = centre_rows(X)
    assert np.allclose((rows if axes is None else rows @ axes.T) + mean, X)
    assert (axes is None) == (2 * n > d)
    if axes is not None:
        assert np.allclose(axes.T @ axes, np.eye(n))


@MANY
@given(st.integers(0, 1000), st.sampled_from([1e-6, 1e-2, 1.0, 300.0, 1e4]), st.sampled_from([1e-3, 1e-6, 1e-9]))
def test_the_start_changes_the_result_by_no_more_than_the_gap(seed: int, C: float, gap: float) -> None:
    problem = problem_of(seed=seed)
    rng = np.random.default_rng(seed)
    tight = solve(problem, C, gap=1e-10)
    neighbour = solve(problem, 10 * C).weights
    for start in (None, neighbour, 2 * neighbour, neighbour + rng.normal(size=neighbour.shape)):
        found = solve(problem, C, start, gap)
        told = problem.evaluate(found.weights, C)
        assert found.objective == pytest.approx(told.value, rel=1e-12)
        assert found.gradient_norm**2 == pytest.approx(2 * told.bound, rel=1e-3)
        assert found.gradient_norm[0] ** 2 / 2 <= gap * told.penalty[0]
        assert tight.objective[0] * (1 - 1e-9) <= found.objective[0] <= tight.objective[0] * (1 + gap)


@pytest.mark.parametrize("C", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_many_classes_reach_the_objective_of_a_float64_solve(C: float) -> None:
    X, y = features(20, 10, 96, spread=0.15)
    found = solve(SoftmaxProblem.from_rows(centred(X), y, 20), C)
    oracle = LogisticRegression(C=C, tol=1e-8, max_iter=20_000).fit(centred(X), y)
    best = objective(oracle.coef_, oracle.intercept_, centred(X), y, C)
    weights = found.weights[0]
    reached = objective(weights[:, :-1], weights[:, -1], centred(X), y, C)
    assert reached == pytest.approx(found.objective[0], rel=1e-9)
    assert best * (1 - 1e-4) <= reached <= best * (1 + 1e-6)
    assert unit(X).shape == (200, 96)


def test_problems_side_by_side_are_solved_as_each_alone() -> None:
    """Of unequal sizes: empty rows pad, and count for nothing."""
    problem = problem_of(4, 8, 12)
    parts = [np.arange(0, 32, 2), np.arange(32), np.arange(1, 32, 3)]
    together = solve(problem.subsets(parts), 10.0)
    for k, part in enumerate(parts):
        alone = solve(problem.subsets([part]), 10.0)
        assert together.objective[k] == pytest.approx(alone.objective[0], rel=2e-6)
        assert np.allclose(together.weights[k], alone.weights[0], atol=1e-2 * np.abs(alone.weights).max())


def test_an_approach_is_as_near_as_it_says_and_takes_blocks_from_another_C() -> None:
    problem = problem_of(5, 10, 80).single
    best = {C: solve(problem, C).objective[0] for C in (30.0, 100.0, 300.0)}
    first = descend(problem, 100.0, problem.start(), 1e-3)
    for C in (30.0, 300.0):
        found = descend(problem, C, first.weights, 1e-3, first.blocks)
        assert found.objective[0] <= best[C] * (1 + 3e-3)
    again = descend(problem, 100.0, first.weights, 1e-3, first.blocks)
    assert np.allclose(again.weights, first.weights, atol=1e-5)
