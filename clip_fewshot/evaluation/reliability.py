"""Whether probabilities are probabilities: log loss, Brier score, calibration error, and the curve that shows it.

Of a hundred pictures that are given their class with probability .8, eighty should show it. Accuracy does not see
that: a classifier can be right as often as another and be believed too much, or too little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clip_fewshot.evaluation.intervals import accuracy_interval, each_seed, mean_interval
from clip_fewshot.runtime.arrays import check_table
from clip_fewshot.types import EvalResult, FloatArray, IndexArray

BINS = 15  # of equally many pictures; as many as the usual ones of equal width
LEAST_IN_BIN = 20  # pictures; where there are fewer, there are fewer bins


class Scores(NamedTuple):
    """What :func:`score_probabilities` measures, each with its interval; less is better but for accuracy.

    Attributes:
        accuracy: in [0, 1]. nll: mean -ln p of the true class, in nats. brier: mean squared distance between
            probabilities and truth, in [0, 2]. ece: calibration error, in [0, 1]: root mean square over pictures of the
            gap between confidence and accuracy in their bin, debiased, see :func:`measure_gaps`.
    """

    accuracy: EvalResult
    nll: EvalResult
    brier: EvalResult
    ece: EvalResult

    def to_json(self) -> dict[str, Any]:
        """The form it has in results.json: the accuracy, and the others beside its own keys."""
        others = {name: result.to_json() for name, result in self._asdict().items() if name != "accuracy"}
        return self.accuracy.to_json() | others


class ReliabilityBins(NamedTuple):
    """Pictures by the probability of their most probable class, in (k,) bins of about equally many."""

    confidence: FloatArray
    accuracy: FloatArray
    size: IndexArray


def score_probabilities(labels: ArrayLike, probabilities_per_seed: Sequence[ArrayLike]) -> Scores:
    """Accuracy, log loss, Brier score and calibration error, with 95 % intervals over seeds and pictures.

    Each is a mean over pictures, or the root of one: one analysis of variance gives all intervals, without resampling.

    Args:
        labels: (n,) in 0..c-1. probabilities_per_seed: (n, c) of each support set, for the same pictures.

    Raises:
        UsageError: probabilities that do not fit the labels.

    Example:
        >>> from clip_fewshot.evaluation.reliability import score_probabilities
        >>> sure, unsure = [[0.9, 0.1]] * 10, [[0.6, 0.4]] * 10
        >>> [round(score_probabilities([0] * 9 + [1], [p]).nll.mean, 2) for p in (sure, unsure)]
        [0.33, 0.55]
    """
    pairs = [_paired(labels, probabilities) for probabilities in each_seed(probabilities_per_seed)]
    return Scores(
        accuracy_interval([table.argmax(axis=1) == truth for truth, table in pairs]),
        mean_interval([measure_losses(*pair) for pair in pairs]),
        mean_interval([measure_brier(*pair) for pair in pairs], high=2),
        _root(mean_interval([measure_gaps(*pair) for pair in pairs], low=-1, high=1)),
    )


def _root(squared: EvalResult) -> EvalResult:
    """Of a squared error; a negative estimate is one of no error."""
    mean, low, high, *per_seed = np.sqrt(np.maximum(0.0, [squared.mean, *squared.ci95, *squared.per_seed])).tolist()
    return EvalResult(mean, (low, high), tuple(per_seed), squared.n_test)


def measure_losses(labels: ArrayLike, probabilities: ArrayLike) -> FloatArray:
    """(n,) -ln p of the true class, in nats; (n, c) probabilities are kept above the smallest float: 0 costs 708."""
    truth, table = _paired(labels, probabilities)
    return np.asarray(-np.log(np.maximum(table[np.arange(len(truth)), truth], np.finfo(np.float64).tiny)))


def measure_brier(labels: ArrayLike, probabilities: ArrayLike) -> FloatArray:
    """(n,) squared distances in [0, 2] between (n, c) probabilities and the truth.

    Brier, "Verification of forecasts expressed in terms of probability", 1950, eq. 2.
    """
    truth, table = _paired(labels, probabilities)
    return np.asarray(((table - np.eye(table.shape[1])[truth]) ** 2).sum(axis=1))


def measure_gaps(labels: ArrayLike, probabilities: ArrayLike, n_bins: int | None = None) -> FloatArray:
    """(n,) values whose mean is the squared calibration error without the bias of small bins; it may be negative.

    The squared error of a bin of m pictures with the sum G of confidence - hit is (G / m)^2. Noise makes that positive
    where probabilities are right, so that one over m - 1 of the variance within the bin is taken off: Kumar, Liang, Ma,
    "Verified Uncertainty Calibration", 2019, definition 4.1. Each value is a jackknife pseudo-value, how much of its
    bin's error is lost without the picture, so that the spread of the values is that of the estimate.

    We rejected the mean absolute gap: its bias is largest where the error is least, and no estimate is free of it. On
    300 pictures of right probabilities it is .08 as papers have it, .05 as that article corrects it, and this one 0.

    Args:
        labels: (n,) in 0..c-1. probabilities: (n, c).
        n_bins: bins of equally many pictures by confidence; None: 15, and fewer below 20 pictures a bin.
    """
    truth, table = _paired(labels, probabilities)
    bins, confidence = _bin_confidence(table, n_bins)
    gap = confidence - (table.argmax(axis=1) == truth)
    size, total, squares = (np.bincount(bins, weights=w)[bins] for w in (np.ones_like(gap), gap, gap**2))
    whole = (total**2 - squares) / np.maximum(size - 1, 1)
    without = ((total - gap) ** 2 - squares + gap**2) / np.maximum(size - 2, 1)
    return np.where(size > 2, whole - without, 0.0)


def measure_reliability(labels: ArrayLike, probabilities: ArrayLike, n_bins: int | None = None) -> ReliabilityBins:
    """Mean confidence and accuracy of each bin; arguments as :func:`measure_gaps` takes them."""
    truth, table = _paired(labels, probabilities)
    bins, confidence = _bin_confidence(table, n_bins)
    size = np.bincount(bins)
    filled = size > 0
    sums = [np.bincount(bins, weights=values)[filled] for values in (confidence, table.argmax(axis=1) == truth)]
    return ReliabilityBins(sums[0] / size[filled], sums[1] / size[filled], size[filled])


def _bin_confidence(table: FloatArray, n_bins: int | None) -> tuple[IndexArray, FloatArray]:
    """The bin of each picture, and its confidence; equal confidences are in one bin, so that no order matters."""
    confidence = table.max(axis=1)
    wanted = n_bins or min(BINS, max(1, len(table) // LEAST_IN_BIN))
    ends = np.quantile(confidence, np.linspace(0, 1, wanted + 1)[1:-1], method="lower")
    return np.searchsorted(ends, confidence, side="left").astype(np.int64), confidence


def _paired(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], FloatArray]:
    truth, table = check_table(labels, probabilities)
    return truth.astype(np.int64), table
