"""Any normality score becomes a p-value: the share of known images that look at least as strange.

For an image exchangeable with the calibration images, P(p <= alpha) <= alpha for every alpha, whatever the score
(Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Bates, Candes, Lei, Romano, Sesia, "Testing
for outliers with conformal p-values", 2023, eq. 2). "Calibration" images must not have taken part in the fit of what
scores them: use held-out images, leave-one-out scores, or those of folds, :func:`cross_p_values`.

With n calibration images no p-value is below 1 / (n + 1): a smaller alpha can never flag anything, and is refused.

Scores that differ by no more than rounding tie, see :func:`clip_fewshot.evaluation.ties.tie_range`: which of them is
the larger depends on the processor, and no p-value may.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clip_fewshot.config.ranges import require_real
from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.ties import tie_range
from clip_fewshot.runtime.arrays import as_scores
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import BoolArray, FloatArray

USUAL_ALPHA = 0.05  # where no other is asked for
USUAL_ALPHAS = (0.01, 0.05, 0.1)
ROUNDING = 1e-9  # of scores, relatively; and so that 1 / (19 + 1) supports an alpha of 0.05 in binary fractions too


class UnsupportedAlphaError(UsageError):
    """An alpha below 1 / (n + 1).

    Attributes:
        n: calibration images there are. needed: the number that would do.

    Args:
        what: is needed, where "calibration images" says too little. have: what there is, where n says too little.
        instead: what else could be done, as in "pool the classes".
    """

    def __init__(
        self, alpha: float, n: int, what: str = "calibration images", have: str = "", instead: str = ""
    ) -> None:
        self.alpha, self.n, self.needed = alpha, n, smallest_shots(alpha)
        got = f"{have or n}, whose smallest p-value is {smallest_alpha(n):.3g}"
        fix = f"add images, {instead + ', ' if instead else ''}or choose alpha >= {_write_least(n)}"
        super().__init__(
            expected=f"{self.needed} {what} or more for alpha = {alpha:g}", got=got, fix=fix, where="alpha"
        )


def smallest_alpha(n: int) -> float:
    """The least false-alarm rate that n calibration images support: 1 / (n + 1)."""
    return 1.0 / (n + 1)


def choose_alpha(asked: float | None, n: int) -> float:
    """The rate that was ``asked`` for; None: the usual one, or the least that n calibration images support if more."""
    return max(USUAL_ALPHA, smallest_alpha(n)) if asked is None else asked


def choose_alphas(asked: Sequence[float], n: int) -> Sequence[float]:
    """The rates that were ``asked`` for; none: the usual three, each at least what n calibration images support."""
    return asked or sorted({max(alpha, smallest_alpha(n)) for alpha in USUAL_ALPHAS})


def explain_alpha(asked: float | None, n: int) -> list[str]:
    """What to say first where no rate was asked for and n calibration images are too few for the usual one."""
    return [] if asked is not None else _explain(USUAL_ALPHA, n)


def explain_alphas(asked: Sequence[float], n: int) -> list[str]:
    """The same of several."""
    return [] if asked else [sentence for alpha in USUAL_ALPHAS for sentence in _explain(alpha, n)]


def _write_least(n: int) -> str:
    """The least rate for n images, rounded upwards: who types what is printed must not be refused."""
    return f"{math.ceil(1e4 * smallest_alpha(n) - ROUNDING) / 1e4:g}"


def _explain(usual: float, n: int) -> list[str]:
    if n >= smallest_shots(usual):
        return []
    takes = f"the usual {usual:g} takes {smallest_shots(usual):,}"
    return [f"alpha is {_write_least(n)}, the least for {number(n, 'calibration image')}; {takes}"]


def smallest_shots(alpha: float) -> int:
    """The least number of calibration images that supports ``alpha``: ceil(1 / alpha) - 1."""
    return max(1, math.ceil(1.0 / alpha - ROUNDING) - 1)


def check_alpha(alpha: float, n: int) -> None:
    """Raise unless 0 < alpha < 1 and n calibration images can support it.

    Raises:
        UnsupportedAlphaError: too few images; it carries the number that would do.
    """
    require_real(alpha, "alpha", "(0, 1)", "alpha", "choose the share of known images you let be flagged")
    if n < smallest_shots(alpha):
        raise UnsupportedAlphaError(alpha, n)


def p_values(
    calibration_scores: FloatArray, scores: FloatArray, *, smoothed: bool = False, seed: int = 0
) -> FloatArray:
    """(m,) p-values of ``scores`` against (n,) ``calibration_scores``, both higher = more normal. Small = novel.

    Plain: (1 + #{calibration <= score}) / (n + 1), never below 1 / (n + 1) and on the safe side with ties.
    Smoothed: ties, the image itself among them, count a random share, so that p is exactly uniform; ``seed`` draws it.
    """
    calibration, asked = as_scores(calibration_scores, "p_values"), as_scores(scores, "p_values")
    ordered = np.sort(calibration)
    least, greatest = tie_range(asked)
    at_most = np.searchsorted(ordered, greatest, side="right")
    if not smoothed:
        return np.asarray((1 + at_most) / (len(ordered) + 1))
    below = np.searchsorted(ordered, least, side="left")
    share = generator(seed, "smoothed p-values").random(len(asked))
    return np.asarray((below + share * (1 + at_most - below)) / (len(ordered) + 1))


def flag(p: FloatArray, alpha: float, n: int) -> BoolArray:
    """(m,) true where a p-value from n calibration images calls the image novel at ``alpha``.

    Raises:
        UnsupportedAlphaError: see :func:`check_alpha`.
    """
    check_alpha(alpha, n)
    return np.asarray(as_scores(p, "flag") <= alpha + ROUNDING)


def cross_p_values(calibration_scores: Sequence[FloatArray], scores: Sequence[FloatArray]) -> FloatArray:
    """(m,) cross-conformal p-values from per-fold calibration scores and per-fold scores of the same m images.

    Vovk, "Cross-conformal predictors", 2015, eq. 3: an image is scored by each fold's detector and ranked among that
    fold's held-out images; the counts add up over folds. P(p <= alpha) is at most about 2 alpha in theory; measured
    with LOF on 4 to 16 shots of five classes it was .04 to .10 at alpha = .1. We rejected ranking the scores of one
    detector, fitted on everything, among out-of-fold scores: that detector sees denser data than those of the folds,
    which gives .10 to .20 false alarms, and .43 with one neighbour less than shots.
    """
    counts = [
        np.searchsorted(np.sort(as_scores(one, "p_values")), tie_range(as_scores(asked, "p_values"))[1], side="right")
        for one, asked in zip(calibration_scores, scores, strict=True)
    ]
    n = sum(len(calibration) for calibration in calibration_scores)
    return np.asarray((1 + np.sum(counts, axis=0)) / (n + 1))
