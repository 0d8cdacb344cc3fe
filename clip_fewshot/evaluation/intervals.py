"""Intervals over seeds and test images, and paired comparisons. A number without them is not reported.

The design is crossed: S seeds (each another support set and another training run) meet the same n test images. A
result x_si varies with the seed, with the image and with their meeting, so the variance of the grand mean is, by the
two-way random-effects analysis of variance (Searle, Casella, McCulloch, "Variance Components", 1992, ch. 4),

    Var = (MS_seed + MS_image - MS_rest) / (S n),

with Satterthwaite's degrees of freedom. An interval over seeds alone leaves out that the test images are a sample,
one over images alone that the support set is; either is too narrow for "a new run on new photos".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.variance import CONFIDENCE_LEVEL, Spread, add_spreads, two_level_spread, wilson_interval
from clip_fewshot.runtime.arrays import as_array, as_labels, as_scores, as_yes_or_no
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import BoolArray, EvalResult, FloatArray

RESAMPLES = 400
EXACT_FLIPS = 12  # up to this many seeds every pattern of signs is tried


@dataclass(frozen=True)
class Difference:
    """A statistic of method A minus that of method B on the same seeds and test images.

    Attributes:
        mean: of the differences, in [-1, 1]. ci95: its 95 % interval over seeds and test images.
        per_seed: difference of each seed.
        wins, losses: seeds where A had more, less; the rest are ties.
        p_value: two-sided, of no difference: the t test that the interval inverts.
        p_seeds: two-sided exact sign-flip test over the seeds' differences, which assumes no distribution; it cannot
            be below 2 / 2^S. None with one seed.
    """

    mean: float
    ci95: tuple[float, float]
    per_seed: tuple[float, ...]
    wins: int
    losses: int
    p_value: float
    p_seeds: float | None

    def __str__(self) -> str:
        """The difference and its interval, with their signs: ``+0.040 [+0.024, +0.056]``."""
        return f"{self.mean:+.3f} [{self.ci95[0]:+.3f}, {self.ci95[1]:+.3f}]"

    def __repr__(self) -> str:
        ahead = f", ahead on {self.wins} of {len(self.per_seed)} seeds" if len(self.per_seed) > 1 else ""
        return f"{type(self).__name__}({self}, p_value={self.p_value:.3g}{ahead})"

    def to_json(self) -> dict[str, Any]:
        """The form it has in results.json."""
        return {**vars(self), "ci95": list(self.ci95), "per_seed": list(self.per_seed)}


@dataclass(frozen=True, repr=False)
class PairedDifference(Difference):
    """Accuracies compared. With one seed ``p_value`` is McNemar's exact test over the images.

    Attributes:
        only_a, only_b: (seed, image) pairs that only A, only B had right.
    """

    only_a: int
    only_b: int


def accuracy_interval(correct_per_seed: Sequence[BoolArray]) -> EvalResult:
    """Accuracy with its 95 % interval over seeds and test images.

    Args:
        correct_per_seed: for each seed (n,) whether each test image was classified rightly; the same images in the
            same order for every seed.

    The interval is Wilson's with as many effective images as explain the two-level variance, and Student's quantile
    for the normal one: it stays in [0, 1], does not collapse where nothing went wrong, and is Wilson's own interval
    for one seed.

    Example:
        >>> import numpy as np
        >>> import clip_fewshot as cf
        >>> right = np.arange(100) < 90  # of 100 test images
        >>> result = cf.accuracy_interval([right, right])
        >>> result.mean, [round(end, 2) for end in result.ci95]
        (0.9, [0.82, 0.95])
    """
    table = _right(correct_per_seed)
    mean, (n_seeds, n) = float(table.mean()), table.shape
    spread = two_level_spread(table) if n_seeds > 1 else Spread(mean * (1 - mean) / n, np.inf)
    return EvalResult(mean, wilson_interval(mean, spread, n), tuple(table.mean(axis=1).tolist()), n)


def mean_interval(values_per_seed: Sequence[FloatArray], low: float = 0.0, high: float = np.inf) -> EvalResult:
    """A mean over pictures with its 95 % interval over seeds and test images: Student's, cut to [low, high].

    ``values_per_seed`` holds for each seed (n,) values of the test images, which are the same for every seed.
    """
    table = _table(values_per_seed)
    mean, (n_seeds, n) = float(table.mean()), table.shape
    spread = two_level_spread(table) if n_seeds > 1 else Spread(float(np.var(table)) / max(n - 1, 1), max(n - 1, 1))
    reach = float(stdtrit(spread.freedom, (1 + CONFIDENCE_LEVEL) / 2)) * spread.variance**0.5
    return EvalResult(mean, (max(low, mean - reach), min(high, mean + reach)), tuple(table.mean(axis=1).tolist()), n)


def statistic_interval(
    statistic: Callable[[NDArray[Any], NDArray[Any]], float],
    labels: NDArray[Any],
    outputs_per_seed: Sequence[NDArray[Any]],
    *,
    seed: int = 0,
) -> EvalResult:
    """Any statistic in [0, 1], ``statistic(labels, outputs)``, with its 95 % interval over seeds and test images.

    Args:
        labels: (n,) truth: class indices, or whether each image is novel.
        outputs_per_seed: for each seed what the statistic compares with the labels: (n,) predictions, scores, ...
        seed: of the resampling.

    The part of the seeds is the variance of their values; the part of the images is a bootstrap of the mean over
    seeds, drawn within each class, as the number of images per class is given, and corrected for the class means
    that this fixes. Their sum counts the interaction twice: the interval errs to the wide side.
    """
    truth, outputs = _aligned(labels, outputs_per_seed)
    per_seed, resampled = _values(statistic, truth, outputs, seed)
    mean, n = float(per_seed.mean()), len(truth)
    return EvalResult(mean, wilson_interval(mean, _of_both(per_seed, resampled, truth), n), tuple(per_seed.tolist()), n)


def statistic_difference(
    statistic: Callable[[NDArray[Any], NDArray[Any]], float],
    labels: NDArray[Any],
    a: Sequence[NDArray[Any]],
    b: Sequence[NDArray[Any]],
    *,
    seed: int = 0,
) -> Difference:
    """A statistic of A minus that of B; seed s of both saw the same support set, image i is the same for all.

    Args:
        statistic, labels: as in :func:`statistic_interval`, which also says how the interval is made; here it is one of
            the differences, each of them on one support set and one resampling of the images.
        a, b: for each seed what the statistic compares with the labels.
    """
    (truth, of_a), (_, of_b) = _aligned(labels, a), _aligned(labels, b)
    if len(of_a) != len(of_b):
        got = f"{len(of_b)}"
        raise UsageError(expected=f"B with {len(of_a)} seeds", got=got, fix="evaluate both on the same support sets")
    (seeds_a, drawn_a), (seeds_b, drawn_b) = (_values(statistic, truth, outputs, seed) for outputs in (of_a, of_b))
    difference = seeds_a - seeds_b
    spread = _of_both(difference, drawn_a - drawn_b, truth)
    return Difference(**_tested(difference, spread, len(truth)))


def paired_difference(a: Sequence[BoolArray], b: Sequence[BoolArray]) -> PairedDifference:
    """Accuracy of A minus that of B; seed s of both saw the same support set, image i is the same for all.

    Args:
        a, b: for each seed (n,) whether each test image was classified rightly.
    """
    right_a, right_b = _right(a), _right(b)
    if right_a.shape != right_b.shape:
        got = f"{right_b.shape}"
        raise UsageError(expected=f"B with {right_a.shape} seeds and images", got=got, fix="evaluate both on the same")
    difference = right_a - right_b
    n_seeds, n = difference.shape
    spread = two_level_spread(difference) if n_seeds > 1 else Spread(float(np.var(difference)) / max(n - 1, 1), np.inf)
    only_a, only_b = int((difference > 0).sum()), int((difference < 0).sum())
    found = _tested(difference.mean(axis=1), spread, n)
    exact = {"p_value": mcnemar_test(only_a, only_b)} if n_seeds == 1 else {}
    return PairedDifference(**found | exact, only_a=only_a, only_b=only_b)


def mcnemar_test(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test: the discordant images fall to A or B like a fair coin."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def sign_flip_test(differences: FloatArray, seed: int = 0) -> float:
    """Two-sided p of "each difference could as well have had the other sign"; exact up to 12 differences."""
    n = len(differences)
    if n <= EXACT_FLIPS:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = generator(seed, "sign flips").choice([-1, 1], size=(20_000, n))
        signs[0] = 1  # what was observed is one of the patterns
    reached = np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12
    return float(reached.mean())


def _tested(per_seed: FloatArray, spread: Spread, n: int) -> dict[str, Any]:
    """The fields of a :class:`Difference` whose mean has that spread, on ``n`` images."""
    mean = float(per_seed.mean())
    # Half an image right for each method alone is added (Agresti and Min, 2005): equal answers on n images do not
    # prove equality beyond about 1 / n.
    error = max(spread.variance, 1.0 / (n + 2) ** 2) ** 0.5
    reach = float(stdtrit(spread.freedom, (1 + CONFIDENCE_LEVEL) / 2)) * error
    return {
        "mean": mean,
        "ci95": (max(-1.0, mean - reach), min(1.0, mean + reach)),
        "per_seed": tuple(per_seed.tolist()),
        "wins": int((per_seed > 0).sum()),
        "losses": int((per_seed < 0).sum()),
        "p_value": float(2 * stdtr(spread.freedom, -abs(mean) / error)),
        "p_seeds": sign_flip_test(per_seed) if len(per_seed) > 1 else None,
    }


def _aligned(labels: NDArray[Any], outputs_per_seed: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    """Both as arrays that fit together."""
    outputs, truth = (
        [as_array(output, "outputs") for output in each_seed(outputs_per_seed)],
        as_labels(labels, "labels"),
    )
    if not outputs or any(output.shape[:1] != truth.shape for output in outputs) or not len(truth):
        got = f"{[o.shape for o in outputs]}"
        raise UsageError(expected=f"outputs for {number(len(truth), 'image')}, per seed", got=got, fix="align them")
    return truth, outputs


def _values(
    statistic: Callable[[NDArray[Any], NDArray[Any]], float],
    truth: NDArray[Any],
    outputs: Sequence[NDArray[Any]],
    seed: int,
) -> tuple[FloatArray, FloatArray]:
    """The statistic of each seed, and its mean over seeds on each resampling of the images."""
    draws = _stratified_draws(truth, seed)
    resampled = [np.mean([statistic(truth[rows], output[rows]) for output in outputs]) for rows in draws]
    return np.array([statistic(truth, output) for output in outputs]), np.array(resampled)


def _of_both(per_seed: FloatArray, resampled: FloatArray, truth: NDArray[Any]) -> Spread:
    """Of the mean over seeds: the part of the seeds and the part of the images."""
    n, n_groups, n_seeds = len(truth), len(np.unique(truth)), len(per_seed)
    of_images = float(np.var(resampled, ddof=1)) * n / max(n - n_groups, 1)
    of_seeds = float(np.var(per_seed, ddof=1)) / n_seeds if n_seeds > 1 else 0.0
    return add_spreads((of_seeds, n_seeds - 1), (of_images, n - 1 if n_seeds > 1 else np.inf))


def _table(values_per_seed: Sequence[NDArray[Any]]) -> FloatArray:
    """(S, n); true is 1."""
    rows = [as_scores(row, f"seed {i}") for i, row in enumerate(each_seed(values_per_seed))]
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or lengths == {0}:
        fix = "evaluate every seed on the same sealed test images"
        got = f"lengths {sorted(lengths)}"
        raise UsageError(expected="one array per seed, all over the same n >= 1 images", got=got, fix=fix)
    return np.array(rows)


def _right(values_per_seed: Sequence[ArrayLike]) -> FloatArray:
    """(S, n) of 0 and 1: whether an answer was right."""
    return _table([as_yes_or_no(row, f"seed {i}") for i, row in enumerate(each_seed(values_per_seed))])


def each_seed(values_per_seed: object) -> list[Any]:
    """One entry per seed; a single number or text is not a list of seeds."""
    if not isinstance(values_per_seed, Iterable) or isinstance(values_per_seed, str):
        got, fix = f"a {type(values_per_seed).__name__}", "write [values] for one seed"
        raise UsageError(expected="one array per seed", got=got, fix=fix)
    return [*values_per_seed]


def _stratified_draws(labels: NDArray[Any], seed: int) -> list[NDArray[np.int64]]:
    """RESAMPLES row selections with replacement, each class drawn from itself."""
    rng = generator(seed, "bootstrap of test images")
    groups = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    return [np.concatenate([rng.choice(group, len(group)) for group in groups]) for _ in range(RESAMPLES)]
