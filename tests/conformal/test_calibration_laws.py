"""Calibrated detectors against their guarantees in simulation.

These fail by chance in fewer than one of a million runs: the exact law of the count is binomial where the draws are
independent and the guarantee is tight, and smaller elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from scipy.stats import binom, kstest

from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.novelty import LOFDetector
from tests.conformal.test_calibration import Nearest

CHANCE = 1e-6


def rate(scheme: str, per_class: bool, make: Callable[[], LOFDetector], alpha: float, **shape: int) -> tuple[int, int]:
    """(false alarms, draws), one picture a draw, classes and pictures drawn alike: exactly exchangeable."""
    runs, n, smoothed = shape["runs"], shape["n"], bool(shape.get("smoothed"))
    rng, hits = np.random.default_rng(n), 0
    centres = rng.normal(size=(3, 6))
    for i in range(runs):
        y = rng.integers(0, 3, n + 1)
        X = 1 + 0.5 * centres[y] + rng.normal(size=(n + 1, 6)) * (0.2 + 0.2 * y[:, None])
        calibrated = Calibrated(make, scheme, per_class, smoothed, seed=i).fit(X[:n], y[:n])
        hits += int(calibrated.p_values(X[n:])[0] <= alpha + 1e-9)
    return hits, runs


@pytest.mark.parametrize("scheme", ["full", "split"])
def test_false_alarms_of_exact_schemes(scheme: str) -> None:
    hits, runs = rate(scheme, False, partial(LOFDetector, 3), 0.2, runs=300, n=14)
    assert hits <= binom.ppf(1 - CHANCE, runs, 0.2)
    assert hits >= binom.ppf(CHANCE, runs, 0.1)  # a rule that flags nothing would be worthless


@pytest.mark.parametrize("n", [3, 9])
def test_smoothed_full_p_values_are_uniform(n: int) -> None:
    rng = np.random.default_rng(n)
    p = []
    for i in range(400):
        X = np.round(rng.normal(size=(n + 1, 3)), 1)
        p.append(Calibrated(Nearest, "full", smoothed=True, seed=i).fit(X[:n]).p_values(X[n:])[0])
    assert kstest(p, "uniform").pvalue > CHANCE


def test_per_class_holds_for_every_class_where_pooled_does_not() -> None:
    """One class is far looser than the other: pooled, all false alarms are its own."""
    rng, runs, alarms = np.random.default_rng(0), 200, {False: 0, True: 0}
    y = np.repeat([0, 1], [20, 9])
    for _ in range(runs):
        X = rng.normal(size=(30, 3)) * np.append(np.where(y == 1, 2.0, 0.2), 2.0)[:, None]
        for per_class in alarms:
            calibrated = Calibrated(Nearest, "full", per_class).fit(X[:29], y)
            alarms[per_class] += int(calibrated.p_values(X[29:])[0] <= 0.1 + 1e-9)
    assert alarms[True] <= binom.ppf(1 - CHANCE, runs, 0.1)
    assert alarms[False] > binom.ppf(1 - CHANCE, runs, 0.1)
