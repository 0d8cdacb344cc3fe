"""Unlabelled pictures sharpen a classifier: a mixture of class directions over shots and queries.

Each class is a direction on the unit sphere; a query belongs to class j with a probability proportional to
pi_j exp(kappa u.mu_j) p_j, where u is its direction from the centre and p what the classifier says. Directions,
proportions and centre are estimated in turn (an EM algorithm; Banerjee, Dhillon, Ghosh, Sra, "Clustering on the Unit
Hypersphere using von Mises-Fisher Distributions", 2005, with the classifier's answer as a prior for each query).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, softmax

from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import multiply_rows
from clip_fewshot.types import FloatArray, LabelArray

KAPPA = 10.0  # 20 is better where classes are equally frequent and worse where they are not: docs/figures/text_prior.md
EVEN = 0.1  # weight of equal proportions, in samples of the size of the queries
REFINE_ROUNDS = 15
DOUBT = 2.0  # standard errors


class Refined(NamedTuple):
    """What unlabelled pictures teach.

    Attributes:
        posteriors: (q, c) of the queries.
        directions: (c, d) unit rows. centre: (d,). log_proportions: (c,).
        moved: share of the queries that change their class, in [0, 1].
        agreement: share of the shots that lie nearest to the mean of their own class's queries.
        refused: that share is lower than the classifier's confidence in the queries, by more than chance: the queries
            contradict the shots, and are better left out.
    """

    posteriors: FloatArray
    directions: FloatArray
    centre: FloatArray
    log_proportions: FloatArray
    moved: float
    agreement: float
    refused: bool


def refine(logits: FloatArray, queries: FloatArray, shots: FloatArray, labels: LabelArray) -> Refined:
    """Fit the mixture to queries and shots.

    Args:
        logits: (q, c) of the queries under the classifier; calibrated, or the queries are moved too much or too little.
        queries: (q, d) unit rows without classes. shots: (n, d) unit rows. labels: (n,) in 0..c-1, each occurs.
    """
    log_p = log_softmax(logits, axis=1)
    n_classes = logits.shape[1]
    one_hot = np.eye(n_classes)[labels]
    counts, sums = one_hot.sum(axis=0)[:, None], one_hot.T @ shots
    means, log_proportions = sums / counts, np.full(n_classes, -np.log(n_classes))
    for _ in range(REFINE_ROUNDS):
        # The centre is the mean of the classes, not of the pictures, which would lie within the most frequent class.
        centre = means.mean(axis=0)
        directions = unit_rows(means - centre)
        mixture = mixture_logits(queries, directions, centre, log_proportions, n_classes)
        posteriors = softmax(mixture + log_p, axis=1)
        taken = posteriors.sum(axis=0)
        means = (sums + posteriors.T @ queries) / (counts + taken[:, None])
        log_proportions = np.log((taken + EVEN * len(queries) / n_classes) / ((1 + EVEN) * len(queries)))
    agreement = _agree_on_shots(posteriors, queries, shots, labels)
    believed = float(np.exp(log_p).max(axis=1).mean())
    error = float(np.sqrt(believed * (1 - believed) / len(shots)))
    return Refined(
        posteriors=posteriors,
        directions=directions,
        centre=centre,
        log_proportions=log_proportions,
        moved=float(np.mean(posteriors.argmax(axis=1) != log_p.argmax(axis=1))),
        agreement=agreement,
        refused=agreement < believed - DOUBT * error,
    )


def mixture_logits(
    unit: FloatArray, directions: FloatArray, centre: FloatArray, log_proportions: FloatArray, together: int
) -> FloatArray:
    """(n, c) that the mixture adds to the classifier's logits of (n, d) unit rows; ``together`` as in multiply_rows."""
    return multiply_rows(KAPPA * unit_rows(unit - centre), directions, log_proportions, together)


def _agree_on_shots(posteriors: FloatArray, queries: FloatArray, shots: FloatArray, labels: LabelArray) -> float:
    """Share of the shots that lie nearest to the mean of their class's queries."""
    taken = posteriors.sum(axis=0)[:, None]
    means = posteriors.T @ queries / np.maximum(taken, 1e-12)
    centre = means.mean(axis=0)
    nearest = (unit_rows(shots - centre) @ unit_rows(means - centre).T).argmax(axis=1)
    return float(np.mean(nearest == labels))
