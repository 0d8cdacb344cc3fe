"""One more class for a logistic regression whose other rows stay: a convex problem of one row."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from clip_fewshot.errors import UsageError
from clip_fewshot.types import FloatArray

ROW_GAP = 1e-10  # of the objective, in Newton's decrement: at the end each step squares it
ROW_STEPS, HALVINGS = 100, 60


def fit_row(rows: FloatArray, others: FloatArray, new: int, C: float) -> tuple[FloatArray, float]:
    """(d,) weights and the intercept of a class whose pictures are the last ``new`` rows.

    With the other rows of the softmax fixed, what is left of its loss depends on the other classes through
    ``others`` alone, the log of the sum of exp of their logits:

        f(w, b) = C * (sum_known ln(1 + e^(s_i - others_i)) + sum_new ln(1 + e^(others_i - s_i))) + |w|^2 / 2

    with s = rows @ w + b: a binary logistic regression with an offset. Newton's method on it; where the rows are fewer
    than the features, in their span, which holds the solution.

    Args:
        rows: (n, d) of unit length, known ones first. others: (n,). C: as of :class:`LinearProbe`.
    """
    if not 0 < new < len(rows):
        expected = "pictures of the new class and of known ones"
        raise UsageError(expected=expected, got=f"{new} of {len(rows)}", fix="give both", where="extend")
    mean = rows.mean(axis=0)  # the intercept absorbs it; Newton's system is better conditioned
    centred = rows - mean
    axes = np.linalg.qr(centred.T)[0] if len(rows) < rows.shape[1] else None
    design = np.column_stack([centred if axes is None else centred @ axes, np.ones(len(rows))])
    sign = np.where(np.arange(len(rows)) < len(rows) - new, -1.0, 1.0)
    found = _newton(design, others, sign, C)
    weights = found[:-1] if axes is None else axes @ found[:-1]
    return weights, float(found[-1] - weights @ mean)


def _newton(design: FloatArray, others: FloatArray, sign: FloatArray, C: float) -> FloatArray:
    def value(at: FloatArray) -> float:
        return float(C * np.logaddexp(0, sign * (others - design @ at)).sum() + at[:-1] @ at[:-1] / 2)

    at = np.zeros(design.shape[1])
    at[-1] = np.mean(others)  # as likely as all others together
    now = value(at)
    ridge = np.append(np.ones(len(at) - 1), 0.0)
    for _ in range(ROW_STEPS):
        wrong = expit(sign * (others - design @ at))
        slope = ridge * at - C * design.T @ (sign * wrong)
        bend = (design.T * (C * wrong * (1 - wrong))) @ design + np.diag(ridge)
        bend[-1, -1] += 1e-12 * max(1.0, C)  # where all is certain the intercept has no curvature left
        step = np.linalg.solve(bend, slope)
        decrement = float(slope @ step)
        length = 1.0
        for _ in range(HALVINGS):
            ahead = value(at - length * step)
            if ahead <= now - length * decrement / 4:
                break
            length /= 2
        if ahead >= now:
            break  # rounding allows no more
        at, now = at - length * step, ahead
        if decrement <= ROW_GAP * max(now, 1e-300):
            break
    return at
