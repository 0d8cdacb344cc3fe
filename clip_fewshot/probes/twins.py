"""How a softmax classifier would do on another picture like each one that it has learned from: right at one shot.

A picture that is left out shows how well a classifier does on pictures that it has not seen. But where it is the only
one of its class, the class is left out too. A twin keeps the class: what a picture's row adds to its own logits shrinks
to what another picture of the class would get from it, and all else stays. Nothing is fitted again, and no picture is
set aside.
"""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from clip_fewshot.types import FloatArray, LabelArray

# Of two pictures of a class, see measure_likeness: .6, .4, .4 and .2 on digits, digits-wild, Caltech and ants and bees.
USUAL_LIKENESS = 0.4
USUAL_PAIRS = 6.0  # pairs of pictures that the usual value counts for
NOISE_DIRECTIONS = 5.0  # a pair of pictures: the noise of a feature is spread over so many directions


def measure_likeness(rows: FloatArray, labels: LabelArray) -> float:
    """Share in [0, 0.9] of a picture's squared length that another picture of its class has in common with it.

    1 - (mean squared distance within classes) / (between classes), an intraclass correlation, drawn to USUAL_LIKENESS
    where few pairs are known.

    Args:
        rows: (n, d). labels: (n,) in 0..c-1.
    """
    counts = np.bincount(labels)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, labels, rows)
    lengths = (rows**2).sum(axis=1)
    # The sum of squared distances over ordered pairs of a set is 2 (m sum |x|^2 - |sum x|^2).
    within = 2 * (counts[labels] @ lengths - (sums**2).sum())
    every = 2 * (len(rows) * lengths.sum() - (rows.sum(axis=0) ** 2).sum())
    pairs, all_pairs = float(counts @ (counts - 1)), len(rows) * (len(rows) - 1.0)
    if pairs == 0 or every <= within:
        return USUAL_LIKENESS
    ratio = within / pairs / ((every - within) / (all_pairs - pairs))
    measured = float(np.clip(1 - ratio, 0.0, 0.9))
    return (pairs / 2 * measured + USUAL_PAIRS * USUAL_LIKENESS) / (pairs / 2 + USUAL_PAIRS)


def twin_logits(
    logits: FloatArray, weights: FloatArray, rows: FloatArray, labels: LabelArray, C: float, likeness: float
) -> FloatArray:
    """(n, c) logits that a twin of each picture may expect.

    With a_i = C (one-hot - p_i), the weights are sum_i a_i x_i. Row i gives its own logits a_i |x_i|^2, and a twin's a
    share r of that. The rows are centred, so what a twin lacks of it is spread over the other rows. The features of a
    twin that no row shares are noise along the weights; Jensen's inequality bounds what it adds to the loss.

    Args:
        logits: (n, c) of the rows. weights: (c, d). rows: (n, d) centred. labels: (n,).
        C: the weights minimise C * sum of losses + |W|^2 / 2.
        likeness: of :func:`measure_likeness`.
    """
    n = len(rows)
    lengths = (rows**2).sum(axis=1)
    dual = -softmax(logits, axis=1)
    dual[np.arange(n), labels] += 1.0
    dual *= C
    shared = _share_of_twin(labels, likeness)
    lacking = ((1 - shared) * lengths)[:, None]
    twin = logits - lacking * (n * dual - dual.sum(axis=0)) / (n - 1)
    gram = weights @ weights.T
    squared = np.diag(gram)
    apart = squared[:, None] + squared[None] - 2 * gram  # (c, c) squared distances of weights
    noise = (1 - shared) * lengths.mean() / (NOISE_DIRECTIONS * n * (n - 1) / 2)
    twin += noise[:, None] / 2 * apart[labels]
    return np.asarray(twin)


def _share_of_twin(labels: LabelArray, likeness: float) -> FloatArray:
    """(n,) share of its own logits that a row keeps for a twin: more where the class has others to speak for it.

    Were a row left out, the k - 1 others of its class would take up a share (k - 1) / k of the likeness.
    """
    shots = np.bincount(labels)[labels]
    return np.asarray(1 - (1 - likeness) ** np.maximum(1.0, 2 * (shots - 1) / shots))
