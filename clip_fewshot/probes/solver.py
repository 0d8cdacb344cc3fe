"""Multinomial logistic regression to a stated gap from its optimum, fast over a whole path of C.

The objective is scikit-learn's: f(W, b) = C * sum_i CE(softmax(Z W + b)_i, y_i) + |W|^2 / 2, intercept unpenalised.
Two exact changes make it cheap: the rows are centred (the intercept absorbs the mean), and where they are fewer than
half of the features they are written in an orthonormal basis of their span (W has no part outside of it).
Newton's method does the rest, each step by conjugate gradients on products with the Hessian, preconditioned class by
class (:mod:`clip_fewshot.probes.preconditioner`). All of it runs in float32 until float64 has the last word: residuals
are formed as minus the sum of the other probabilities, not as p - 1, so that they keep their digits where p is near 1.
We rejected L-BFGS, because it needs 30 to 800 evaluations where this needs 5, and Newton-Cholesky, because its Hessian
is dense: docs/figures/logistic_probe.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clip_fewshot.probes.preconditioner import Blocks, build_blocks
from clip_fewshot.probes.softmax import ObjectivePoint, SoftmaxProblem, dot
from clip_fewshot.types import BoolArray, FloatArray

SOLVER_GAP = 1e-6  # of |W|^2 / 2, certain: weights within 1e-3 of themselves; f itself is then within about 1e-8
ROUNDS, SOLVER_STEPS, LENGTHS = 100, 200, 20
FORCING = 0.1  # what is left of the error of a Newton system, in its energy; 0.02 took as many steps in all
MAX_STEP = 4.0  # times the Newton step
FLAT = 0.25  # a step is long enough where the slope along it has fallen to this share
FAR = 0.01  # relative decrement above which the curvature has moved on and the blocks are built again
BLOCKS_SERVE = 10.0  # factor on C over which blocks still serve
FEW, MANY = 32, 64  # rows per block: for a rough solution, and for the last digits


class Solution(NamedTuple):
    """Weights with the intercept as last column, and how far from the optimum they can be, for f problems.

    The objective is 1-strongly convex in the weights, so |W - W*| <= gradient_norm and f - f* <= gradient_norm^2 / 2.
    """

    weights: FloatArray  # (f, c, r + 1)
    objective: FloatArray  # (f,)
    gradient_norm: FloatArray  # (f,)
    weights_norm: FloatArray  # (f,) |W|, without the intercepts
    blocks: Blocks | None = None


def solve(problem: SoftmaxProblem, C: float, start: FloatArray | None = None, gap: float = SOLVER_GAP) -> Solution:
    """Minimise f until it is certainly within ``gap * |W|^2 / 2`` of its minimum, or as near as rounding allows.

    Not ``gap * f``: at C = 1e-6 zero weights are that near, and rank nothing.

    Args:
        start: (f, c, r + 1) weights to begin from: those of a neighbouring C, or None for zeros.
    """
    found = _from(problem, C, problem.start() if start is None else start, gap)
    if start is None or (found.gradient_norm**2 <= gap * found.weights_norm**2).all():
        return found
    # From far off an intercept can run to where every p is 0 or 1 and no curvature leads back.
    cold = _from(problem, C, problem.start(), gap)
    return cold if cold.gradient_norm.max() < found.gradient_norm.max() else found


def _from(problem: SoftmaxProblem, C: float, start: FloatArray, gap: float) -> Solution:
    """Near the optimum roughly, then certainly in float32, and at last in float64."""
    near = descend(problem.single, C, _float32(start), FAR)
    rough = _descend(problem.single, C, near.weights, gap / 2, None, certain=True)
    return _descend(problem, C, rough.weights.astype(problem.rows.dtype), gap, rough.blocks, certain=True)


def descend(problem: SoftmaxProblem, C: float, start: FloatArray, gap: float, blocks: Blocks | None = None) -> Solution:
    """Go on until f seems within ``gap * f`` of its minimum, by the curvature that the blocks know.

    ``blocks`` of an earlier solution serve again where they can.
    """
    return _descend(problem, C, start, gap, blocks, certain=False)


def _descend(
    problem: SoftmaxProblem, C: float, start: FloatArray, gap: float, blocks: Blocks | None, *, certain: bool
) -> Solution:
    point = problem.evaluate(start - start.mean(axis=1, keepdims=True), C)  # no step has a mean over classes to correct
    lowest, rounding = point.bound, np.finfo(start.dtype).eps
    for _ in range(ROUNDS):
        if certain and (point.bound <= gap * point.penalty).all():
            break
        if blocks is None or blocks.C > BLOCKS_SERVE * C:
            blocks = _blocks(problem, point, C, certain)
        # Blocks of a larger C understate the gap, by that factor at most.
        decrement = dot(point.gradient, blocks.solve(_float32(point.gradient))) / 2 * max(1.0, blocks.C / C)
        if not certain and (decrement <= gap * point.value).all():
            break
        if (decrement > FAR * point.value).any() or C > BLOCKS_SERVE * blocks.C:
            blocks = _blocks(problem, point, C, certain)
        new = _advance(problem, point, _newton(problem, point, blocks, C, gap, certain), C)
        stalled = new.value >= point.value * (1 - rounding)
        if (stalled & (new.bound > lowest / 2)).all():
            break  # rounding allows no more
        point, lowest = new, np.minimum(lowest, new.bound)
    return Solution(point.weights, point.value, np.sqrt(2 * point.bound), np.sqrt(2 * point.penalty), blocks)


def _blocks(problem: SoftmaxProblem, point: ObjectivePoint, C: float, certain: bool) -> Blocks:
    return build_blocks(problem.single.rows, _float32(point.probabilities), C, MANY if certain else FEW)


def _newton(
    problem: SoftmaxProblem, point: ObjectivePoint, blocks: Blocks, C: float, gap: float, certain: bool
) -> FloatArray:
    """The step to the minimum of the quadratic model, by preconditioned conjugate gradients in float32."""
    p = _float32(point.probabilities)
    residual = -_float32(point.gradient)
    step, along = np.zeros_like(residual), blocks.solve(residual)
    size = dot(residual, along)
    enough = gap * (point.penalty if certain else point.value)
    floor = FORCING * size if certain else np.maximum(FORCING * size, enough / 2)
    for _ in range(SOLVER_STEPS):
        active = size > floor
        if certain:
            active &= dot(residual, residual) > enough
        if not active.any():
            break
        image = problem.curvature(p, along, C)
        share = _ratio(size, dot(along, image), active)
        step += share * along
        residual = residual - share * image
        scaled = blocks.solve(residual)
        before, size = size, dot(residual, scaled)
        along = scaled + _ratio(size, before, active) * along
    return step


def _advance(problem: SoftmaxProblem, point: ObjectivePoint, step: FloatArray, C: float) -> ObjectivePoint:
    """Along ``step`` to where its slope is small: by slopes, as differences of f drown in rounding near the end.

    The logits are linear in the length, so a length costs no matrix product.
    """
    step = step.astype(point.weights.dtype, copy=False)
    along, inner = problem.change(step), step[:, :, :-1]
    first, bend = dot(point.weights[:, :, :-1], inner), dot(inner, inner)
    slope = dot(point.gradient, step)
    low, high = np.zeros(len(step)), np.full(len(step), np.inf)  # lengths where f still falls, and already rises
    length = np.ones(len(step))
    for _ in range(LENGTHS):
        scale = length[:, None, None].astype(along.dtype)
        logits = point.logits + scale * along
        told = problem.softmax(logits)
        end = C * np.einsum("fnc,fnc->f", told.residuals, along) + first + length * bend
        if (good := (np.abs(end) <= FLAT * np.abs(slope)) | ((end < 0) & (length >= MAX_STEP))).all():
            break
        low, high = np.where(end < 0, length, low), np.where(end < 0, high, length)
        length = np.where(good, length, np.where(np.isinf(high), 2 * length, (low + high) / 2))
    return problem.point(point.weights + scale * step, logits, told, C)


def _float32(values: FloatArray) -> FloatArray:
    return np.asarray(values.astype(np.float32, copy=False))


def _ratio(a: FloatArray, b: FloatArray, where: BoolArray) -> FloatArray:
    """(f, 1, 1) a / b, and 0 outside of ``where``: problems that are done stand still."""
    return np.divide(a, b, out=np.zeros_like(a), where=where & (b > 0))[:, None, None]
