"""Which of many pictures are new, at a chosen share of false discoveries: the expected one, whatever the number found.

False-discovery control needs p-values that are independent or positively dependent. Conformal p-values that share their
calibration pictures are dependent: one unlucky calibration set makes all of them small. The dependence is positive
(PRDS), so that Benjamini-Hochberg holds, and Storey's correction too: Bates, Candes, Lei, Romano, Sesia, "Testing for
outliers with conformal p-values", 2023, section 2. That is proven for the split scheme. For full conformal and
leave-one-out, where each picture has a bag of its own, it is measured: ``python -m experiments.coverage``.

n calibration pictures let r of m be found only where 1 / (n + 1) <= r q / m: for one among m at q, m / q - 1 of them.
"""

from __future__ import annotations

import numpy as np

from clip_fewshot.config.ranges import require_real
from clip_fewshot.conformal.p_values import ROUNDING
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.arrays import as_scores
from clip_fewshot.types import BoolArray, FloatArray

ABOVE = 1 + ROUNDING


def benjamini_hochberg(p: FloatArray, q: float) -> BoolArray:
    """(m,) true where a picture counts as found, with an expected share of false ones of at most ``q``.

    The r smallest p-values, r the largest number with p_(r) <= r q / m (Benjamini, Hochberg, "Controlling the false
    discovery rate", 1995, eq. 1).

    Raises:
        UsageError: p-values outside [0, 1], or q outside (0, 1).
    """
    return _step_up(_checked(p, q), q, 1.0)


def storey(p: FloatArray, q: float, lam: float = 0.5) -> BoolArray:
    """The same with the share of known pictures estimated: sharper where many are new.

    Of the known ones a share 1 - lam has p > lam, so that (1 + #{p > lam}) / ((1 - lam) m) is the share of known ones
    or more; nothing above ``lam`` is found (Storey, Taylor, Siegmund, "Strong control, conservative point estimation
    and simultaneous conservative consistency of false discovery rates", 2004, theorem 3). As in the paper the estimate
    may be above 1: then it finds less than :func:`benjamini_hochberg`.

    Raises:
        UsageError: p-values outside [0, 1], q or lam outside (0, 1).
    """
    values = _checked(p, q)
    require_real(lam, "lam", "(0, 1)", "storey", "leave it at 0.5")
    known = (1 + np.sum(values > lam * ABOVE)) / ((1 - lam) * max(1, len(values)))
    return _step_up(values, q / float(known), lam * ABOVE)


def _step_up(values: FloatArray, q: float, highest: float) -> BoolArray:
    """(m,) the r smallest, r the largest number whose p-value is at most r q / m, and ``highest`` at most.

    Conformal p-values are multiples of 1 / (n + 1) and meet r q / m exactly: rounding must not decide.
    """
    ordered = np.sort(values)
    limits = np.arange(1, len(values) + 1) * q / max(1, len(values)) * ABOVE
    fits = np.flatnonzero((ordered <= limits) & (ordered <= highest))
    return np.asarray(values <= (ordered[fits[-1]] if len(fits) else -1.0))


def _checked(p: FloatArray, q: float) -> FloatArray:
    values = as_scores(p, "discoveries")
    if not ((values >= 0) & (values <= 1)).all():
        got, fix = f"{values.min():g} to {values.max():g}", "check what made them"
        raise UsageError(expected="p-values (m,) in [0, 1]", got=got, fix=fix, where="discoveries")
    require_real(q, "q", "(0, 1)", "q", "choose the share of false discoveries you accept")
    return values
