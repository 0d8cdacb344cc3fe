"""Temperatures against a slow search, and what keeps them within bounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from clip_fewshot.evaluation.calibration import TEMPERATURE_SD, fit_left_out_temperature, fit_temperature, log_losses


def drawn(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``temperature`` times too large for labels that were drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(n, 5))
    labels = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return temperature * logits, labels


@pytest.mark.parametrize("temperature", [0.2, 1.0, 6.0])
def test_many_pictures_find_the_temperature(temperature: float) -> None:
    assert fit_temperature(*drawn(20_000, temperature)) == pytest.approx(temperature, rel=0.05)


def test_it_is_the_best_of_a_fine_grid() -> None:
    logits, labels = drawn(12, 3.0)
    grid = np.exp(np.linspace(-5, 5, 20_001))
    costs = [log_losses(logits / t, labels).sum() + np.log(t) ** 2 / (2 * TEMPERATURE_SD**2) for t in grid]
    assert fit_temperature(logits, labels) == pytest.approx(grid[int(np.argmin(costs))], rel=2e-3)


def test_pictures_that_are_all_right_leave_it_finite() -> None:
    labels = np.arange(3)
    temperature = fit_temperature(4.0 * np.eye(3), labels)
    assert 0.2 < temperature < 1


def test_loss_is_that_of_the_softmax() -> None:
    logits, labels = drawn(50, 2.0)
    p = softmax(logits, axis=1)[np.arange(50), labels]
    np.testing.assert_allclose(log_losses(logits, labels), -np.log(p), rtol=1e-9)


def test_each_picture_is_judged_under_the_temperature_of_the_others() -> None:
    """The slow way: leave each out and fit again."""
    logits, labels = drawn(40, 3.0)
    losses, temperature = fit_left_out_temperature(logits, labels)
    slow = []
    for i in range(40):
        rest = np.arange(40) != i
        slow.append(log_losses(logits[i : i + 1] / fit_temperature(logits[rest], labels[rest]), labels[i : i + 1])[0])
    own = log_losses(logits / temperature, labels)
    assert np.mean(own) < np.mean(slow)
    assert np.mean(losses) == pytest.approx(np.mean(slow), abs=0.1 * (np.mean(slow) - np.mean(own)))
