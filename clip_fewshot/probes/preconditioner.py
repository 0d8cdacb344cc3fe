"""An approximate inverse of the Hessian of multinomial logistic regression: one block per class.

The block of class k is I + C * sum_i q_ik x_i x_i^T with q = p (1 - p). A few dozen rows carry most of q: with them
alone Woodbury's identity inverts the block at the price of a system of that many unknowns. 64 rows save four steps of
conjugate gradients in ten. We rejected the diagonal of the Hessian and three other forms:
docs/figures/logistic_probe.md has the counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clip_fewshot.types import FloatArray

DEAD = 1e-6  # least curvature of an intercept, as a share of C
STIFF = 100.0  # most weight of a row: with 1e4 float32's noise made blocks indefinite, with less no slower


class ExactBlocks(NamedTuple):
    """Blocks of few features, inverted as they are, at some weights and ``C``, for f problems at once."""

    C: float
    inverse: FloatArray  # (f, c, r + 1, r + 1)

    @classmethod
    def from_rows(cls, rows: FloatArray, weights: FloatArray, C: float) -> ExactBlocks:
        """From (f, n, r + 1) rows whose last column is 1 and their (f, c, n) weights C * q."""
        wide = rows[:, None]
        blocks = (wide * weights[..., None]).swapaxes(2, 3).astype(np.float64) @ wide
        penalty = np.ones(rows.shape[2])
        penalty[-1] = C * DEAD
        return cls(C, np.linalg.inv(blocks + np.diag(penalty)).astype(rows.dtype))

    def solve(self, gradient: FloatArray) -> FloatArray:
        """The inverse times an (f, c, r + 1) gradient, less the mean over classes, which no probability sees."""
        step = (self.inverse @ gradient[..., None])[..., 0]
        return np.asarray(step - step.sum(axis=1, keepdims=True) / step.shape[1])


class LowRankBlocks(NamedTuple):
    """Blocks of the rows that weigh most, at some weights and ``C``, for f problems at once."""

    C: float
    factors: FloatArray  # (f, c, m, r + 1) rows times the root of their weight
    core: FloatArray  # (f, c, m, m) what Woodbury's identity inverts, inverted
    intercept: FloatArray  # (f, c, 1) curvature along each intercept, which has no penalty

    @classmethod
    def from_rows(cls, rows: FloatArray, weights: FloatArray, C: float, most: int) -> LowRankBlocks:
        """From (f, n, r + 1) rows whose last column is 1 and their (f, c, n) weights C * q; ``most`` rows per class."""
        intercept = np.maximum(weights.sum(axis=2, keepdims=True), C * DEAD)
        f, n, width = rows.shape
        m = min(most, n)
        heaviest = np.argpartition(weights, n - m, axis=2)[:, :, n - m :]
        root = np.sqrt(np.minimum(np.take_along_axis(weights, heaviest, axis=2), STIFF))[..., None]
        factors = rows.reshape(f * n, width).take(heaviest + np.arange(0, f * n, n)[:, None, None], axis=0) * root
        ones = factors[..., -1:]
        gram = factors @ factors.swapaxes(2, 3) + (1 / intercept - 1)[..., None] * (ones * ones.swapaxes(2, 3))
        core = np.linalg.inv(gram + np.eye(m))  # in float64: at C = 1e6 its condition is beyond float32
        return cls(C, factors, core.astype(rows.dtype), intercept)

    def solve(self, gradient: FloatArray) -> FloatArray:
        """The inverse times an (f, c, r + 1) gradient, less the mean over classes, which no probability sees."""
        first = gradient.copy()
        first[..., -1:] /= self.intercept
        second = (self.factors.swapaxes(2, 3) @ (self.core @ (self.factors @ first[..., None])))[..., 0]
        second[..., -1:] /= self.intercept
        first -= second
        first -= first.sum(axis=1, keepdims=True) / first.shape[1]
        return first


Blocks = ExactBlocks | LowRankBlocks


def build_blocks(rows: FloatArray, probabilities: FloatArray, C: float, most: int) -> Blocks:
    """From (f, n, r + 1) rows and (f, n, c) probabilities: exact where there are up to ``most`` columns."""
    weights = C * np.ascontiguousarray((probabilities * (1 - probabilities)).swapaxes(1, 2))
    if rows.shape[2] <= most:
        return ExactBlocks.from_rows(rows, weights, C)
    return LowRankBlocks.from_rows(rows, weights, C, most)
