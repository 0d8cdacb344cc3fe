"""Labels that a probe doubts which has not learned from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from clip_fewshot.probes.left_out import left_out_logits
from clip_fewshot.probes.logistic import LinearProbe
from clip_fewshot.types import FloatArray, IndexArray, LabelArray


class LabelSuspects(NamedTuple):
    """Rows whose label is doubted, the most doubted first.

    Attributes:
        rows: (s,) row numbers. suggested: (s,) the class that the probe would give.
        probability: (s,) of that class. own: (s,) of the label.
        accuracy: of the left-out probe on all rows: how far its doubts can be trusted.
    """

    rows: IndexArray
    suggested: LabelArray
    probability: FloatArray
    own: FloatArray
    accuracy: float


def find_label_suspects(X: FloatArray, labels: LabelArray, parts: Sequence[IndexArray], seed: int = 0) -> LabelSuspects:
    """The rows of which another class is more probable, and as probable as it is for its own pictures on average.

    Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021, section 3.1.

    Args:
        X: (n, d) features. labels: (n,) in 0..c-1, each of which occurs; two must be left without any part.
        parts: row numbers left out together, each row in one of them; copies of a picture belong into one part.
        seed: of the folds on which the probe's penalty is searched.
    """
    penalty = LinearProbe(seed=seed).fit(X, labels).C_
    probabilities = softmax(left_out_logits(X, labels, penalty, parts), axis=1)
    every = np.arange(len(labels))
    own = probabilities[every, labels]
    usual = np.array([own[labels == c].mean() for c in range(probabilities.shape[1])])
    confident = np.where(probabilities >= usual, probabilities, 0.0)
    confident[every, labels] = 0.0
    suggested = confident.argmax(axis=1)
    margin = confident[every, suggested] - own
    rows = np.flatnonzero(margin > 0)
    rows = rows[np.argsort(-margin[rows], kind="stable")]
    accuracy = float((probabilities.argmax(axis=1) == labels).mean())
    return LabelSuspects(rows, suggested[rows], probabilities[rows, suggested[rows]], own[rows], accuracy)
