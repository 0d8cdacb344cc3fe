"""The penalty of the linear probe: a grid of cold scikit-learn fits, against our search."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from clip_fewshot import LinearProbe
from clip_fewshot.types import FloatArray
from experiments.benchmark.options import Options
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import Features, clip_like
from experiments.benchmark.timing import WHOLE, Side, Spent, Times, Watch, interleave

GRID = np.logspace(-6, 6, 96)  # Radford et al., 2021, appendix A.3
VALIDATION_SHOTS = 4
FIT, LAST = "a fit of the grid", "the fit at the chosen C"


@dataclass(frozen=True)
class Sizes:
    """``measured`` values of the grid are fitted, evenly spread; the time is scaled to all of it."""

    classes: int = 100
    shots: int = 16
    width: int = 512
    measured: int = 12
    tests: int = 20


def rows(options: Options, sizes: Sizes | None = None) -> Iterator[Row]:
    """The search for C, against a probe fitted again for every C and fold."""
    sizes = sizes or Sizes()
    task = Task(sizes, options.seed)
    sides = {"naive": Side(task.naive), "ours": Side(task.ours)}
    times = interleave(sides, options.repeats, warm_up=False)
    checks = (
        Check("objective over its minimum, relative", task.gap(), 1e-4),
        Check("accuracy below the plain way's", max(0.0, task.accuracy["naive"] - task.accuracy["ours"]), 0.0),
        Check("accuracy", task.accuracy["ours"]),
    )
    share = len(GRID) / sizes.measured
    pairs = zip(times["naive"][FIT].scaled(share).repeats, times["naive"][LAST].repeats, strict=True)
    naive = Times(tuple(Spent(a.cpu + b.cpu, a.wall + b.wall) for a, b in pairs))
    note = (
        f"Plain way: {len(GRID)} cold fits of scikit-learn's LogisticRegression, of which {sizes.measured}, evenly "
        "spread, are measured and scaled, and one at the chosen C. The minimum is its fit in float64 at tolerance 1e-8."
    )
    what = f"search for C, {sizes.classes} x {sizes.shots} x {sizes.width}"
    yield Row(what, "search", times["ours"][WHOLE], naive, 15, checks, note)


@dataclass
class Task:
    """Features to learn from, to choose C on, and to test on."""

    sizes: Sizes
    seed: int
    accuracy: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        def draw(part: str, per_class: int) -> Features:
            return clip_like(self.sizes.classes, per_class, self.sizes.width, self.seed, part)

        train, held = draw("train", self.sizes.shots), draw("validation", VALIDATION_SHOTS)
        self.test = draw("test", self.sizes.tests)
        self.X, self.y = np.concatenate([train.X, held.X]), np.concatenate([train.y, held.y])
        self.split = np.arange(len(train.y)), len(train.y) + np.arange(len(held.y))

    def naive(self, watch: Watch) -> None:
        """Fit scikit-learn's cross-validated regression."""
        train, held = self.split
        tried = GRID[np.linspace(0, len(GRID) - 1, self.sizes.measured).round().astype(int)]
        scores = []
        with watch(FIT):
            for C in tried:
                probe = sklearn_fit(self.X[train], self.y[train], C)
                scores.append(probe.score(self.X[held], self.y[held]))
        with watch(LAST):
            probe = sklearn_fit(self.X, self.y, tried[int(np.argmax(scores))])
        self.accuracy["naive"] = float(probe.score(self.test.X, self.test.y))

    def ours(self, watch: Watch) -> None:
        """Fit our probe, which finds its own C."""
        self.probe = LinearProbe(folds=[self.split]).fit(self.X, self.y)
        self.accuracy["ours"] = float(self.probe.score(self.test.X, self.test.y))

    def gap(self) -> float:
        """How far the objective of our last fit is above the least, as a share of it."""
        X = self.X.astype(np.float64)
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        centred = X - X.mean(axis=0)  # the intercept absorbs the mean: the same minimum, better conditioned
        truth = sklearn_fit(centred, self.y, self.probe.C_, tol=1e-8, max_iter=10_000)
        least = objective(centred, self.y, self.probe.C_, truth.coef_, truth.intercept_)
        found = objective(X, self.y, self.probe.C_, self.probe.coef_, self.probe.intercept_)
        return max(0.0, found / least - 1)


def sklearn_fit(
    X: NDArray[np.floating], y: NDArray[np.int64], C: float, tol: float = 1e-4, max_iter: int = 1000
) -> Any:
    """scikit-learn's logistic regression, as CLIP's own scripts call it."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some values of the grid do not converge: part of what is measured
        return LogisticRegression(C=C, tol=tol, max_iter=max_iter).fit(X, y)


def objective(X: FloatArray, y: NDArray[np.int64], C: float, weights: FloatArray, intercept: FloatArray) -> float:
    """C * sum of cross-entropies + |W|^2 / 2 in float64."""
    logits = X @ weights.T.astype(np.float64) + intercept
    loss = -log_softmax(logits, axis=1)[np.arange(len(y)), y].sum()
    return float(C * loss + np.vdot(weights, weights) / 2)
