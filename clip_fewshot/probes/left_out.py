"""What the linear probe says of rows it has not learned from: refits without each of them, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.softmax import SoftmaxProblem, centre_rows
from clip_fewshot.probes.solver import solve
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

LEFT_OUT_BLOCK = (
    1 << 20
)  # numbers of the refits solved at a time, 8 MiB; 160 refits of 160 x 512 x 10 classes: 0.3 to 0.7 s


def left_out_logits(X: FloatArray, labels: LabelArray, C: float, parts: Sequence[IndexArray]) -> FloatArray:
    """(n, c) logits of each row under ``LinearProbe(C)`` fitted without the part it is in: see :func:`refit_logits`."""
    logits = np.empty((len(X), int(labels.max()) + 1))
    for part, found in refit_logits(X, labels, C, parts):
        logits[part] = found[part]
    return logits


def refit_logits(
    X: FloatArray, labels: LabelArray, C: float, parts: Sequence[IndexArray]
) -> Iterator[tuple[IndexArray, FloatArray]]:
    """Each part with the (n, c) logits of all rows under ``LinearProbe(C)`` fitted without it, in any order.

    A class that has no rows then has -inf. Each refit begins from the weights for all rows, and is solved to the same
    gap as a probe's own fit.

    Args:
        X: (n, d) features. labels: (n,) in 0..c-1, each of which occurs; two must be left without any part.
        parts: row numbers, each row in one of them.
    """
    basis = centre_rows(unit_rows(X))  # the intercept absorbs any mean: that of all rows serves every refit
    whole = SoftmaxProblem.from_rows(basis.rows, labels, int(labels.max()) + 1)
    weights = solve(whole, C).weights
    present = [np.unique(np.delete(labels, part)) for part in parts]
    size = max(1, LEFT_OUT_BLOCK // whole.rows.size)
    for count in sorted({len(classes) for classes in present}):
        alike = [i for i, classes in enumerate(present) if len(classes) == count]
        for start in range(0, len(alike), size):
            block = [(parts[i], present[i]) for i in alike[start : start + size]]
            for (part, classes), found in zip(block, _refit(whole, weights, C, block), strict=True):
                logits = np.full((len(X), whole.n_classes), -np.inf)
                logits[:, classes] = whole.rows[0] @ found.T
                yield part, logits


def _refit(
    whole: SoftmaxProblem, weights: FloatArray, C: float, block: Sequence[tuple[IndexArray, IndexArray]]
) -> FloatArray:
    """Weights for each (part, classes present without it), as many classes in each."""
    count = len(block[0][1])
    rows = np.repeat(whole.rows, len(block), axis=0)
    real, labels = np.repeat(whole.real, len(block), axis=0), np.zeros((len(block), rows.shape[1]), np.int64)
    for k, (part, classes) in enumerate(block):
        rows[k, part] = real[k, part] = 0
        labels[k] = np.minimum(np.searchsorted(classes, whole.labels[0]), count - 1)  # rows of zeros count for nothing
    begin = np.concatenate([weights[:, classes] for _, classes in block])
    return solve(SoftmaxProblem(rows, real, labels, count), C / 2 if count == 2 else C, begin).weights
