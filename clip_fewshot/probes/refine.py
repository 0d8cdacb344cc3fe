"""Unlabelled pictures sharpen a classifier: a mixture of class directions over shots and queries.

Each class is a direction on the unit sphere; a query belongs to class j with a probability proportional to
pi_j exp(kappa u.mu_j) p_j, where u is its direction from the centre and p what the classifier says. Directions,
proportions and centre are estimated in turn (an EM algorithm; Banerjee, Dhillon, Ghosh, Sra, "Clustering on the Unit
Hypersphere using von Mises-Fisher Distributions", 2005, with the classifier's answer as a prior for each query).

What remains is the classifier plus the mixture without its proportions: like the shots, it says what a picture shows
and not how frequent that is, and a rare class is found elsewhere too. Both look at the same features, so their sum is
too sure: it is divided by a temperature. Nor is it always better, least where shots are many. So it is not chosen but
averaged with the classifier, by how likely either makes the shots, each as if neither had seen it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_softmax, softmax

from clip_fewshot.evaluation.calibration import fit_log_scale, log_losses
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import multiply_rows
from clip_fewshot.types import FloatArray, LabelArray

KAPPA = 10.0  # 20 is better where classes are equally frequent and worse where they are not: docs/figures/text_prior.md
EVEN = 0.1  # weight of equal proportions, in samples of the size of the queries
REFINE_ROUNDS = 15
DOUBT = 2.0  # standard errors
SHARPNESS_SD = 0.5  # ln; how far from 1 the sharpness usually lies: .4 to 1 on four sets at 16 shots


class Refined(NamedTuple):
    """What unlabelled pictures teach.

    Attributes:
        posteriors: (q, c) of the queries.
        directions: (c, d) rows for :func:`mixture_logits`. centre: (d,). log_proportions: (c,).
        factor: what the logits of the classifier are to be multiplied by beside the mixture.
        share: of the mixture in the mean, in [0, 1].
        left_out: (n, c) logits of the shots as if they had not been seen; None where the classifier's are not known.
        moved: share of the queries that change their class, in [0, 1].
        agreement: share of the shots that lie nearest to the mean of their own class's queries.
        refused: that share is lower than the classifier's confidence in the queries, by more than chance: the queries
            contradict the shots, and are better left out.
    """

    posteriors: FloatArray
    directions: FloatArray
    centre: FloatArray
    log_proportions: FloatArray
    factor: float
    share: float
    left_out: FloatArray | None
    moved: float
    agreement: float
    refused: bool


class Estimate(NamedTuple):
    """Where the rounds end."""

    posteriors: FloatArray  # (q, c)
    sums: FloatArray  # (c, d) of the rows of each class, queries by their share
    weights: FloatArray  # (c, 1) how many these are
    log_proportions: FloatArray  # (c,)

    @property
    def means(self) -> FloatArray:
        """(c, d)."""
        return self.sums / self.weights


def refine(
    logits: FloatArray, queries: FloatArray, shots: FloatArray, labels: LabelArray, left_out: FloatArray | None = None
) -> Refined:
    """Fit the mixture to queries and shots.

    Args:
        logits: (q, c) of the queries under the classifier; calibrated, or the queries are moved too much or too little.
        queries: (q, d) unit rows without classes. shots: (n, d) unit rows. labels: (n,) in 0..c-1, each occurs.
        left_out: (n, c) logits of the shots under the classifier as if it had not seen them; None: the mixture is
            taken as it is.
    """
    log_p = log_softmax(logits, axis=1)
    found = _estimate(log_p, queries, shots, labels)
    sharpness, share = 1.0, 1.0
    if left_out is not None:
        both = left_out + _mixture_left_out(found, shots, labels)
        sharpness = float(np.exp(fit_log_scale(both, labels, 0.0, SHARPNESS_SD)))
        share = float(expit((log_losses(left_out, labels) - log_losses(sharpness * both, labels)).sum()))
        left_out = (1 - share) * left_out + share * sharpness * both
    directions, centre = _directions(found.means)
    directions *= KAPPA * share * sharpness
    factor = 1 - share + share * sharpness
    after = factor * logits + mixture_logits(queries, directions, centre, logits.shape[1])
    agreement = _agree_on_shots(found.posteriors, queries, shots, labels)
    believed = float(np.exp(log_p).max(axis=1).mean())
    error = float(np.sqrt(believed * (1 - believed) / len(shots)))
    return Refined(
        posteriors=found.posteriors,
        directions=directions,
        centre=centre,
        log_proportions=found.log_proportions,
        factor=factor,
        share=share,
        left_out=left_out,
        moved=float(np.mean(after.argmax(axis=1) != logits.argmax(axis=1))),
        agreement=agreement,
        refused=agreement < believed - DOUBT * error,
    )


def mixture_logits(unit: FloatArray, directions: FloatArray, centre: FloatArray, together: int) -> FloatArray:
    """(n, c) that the mixture adds to the classifier's logits of (n, d) unit rows; ``together`` as in multiply_rows."""
    return multiply_rows(unit_rows(unit - centre), directions, np.zeros(len(directions)), together)


def _estimate(log_p: FloatArray, queries: FloatArray, shots: FloatArray, labels: LabelArray) -> Estimate:
    n_classes = log_p.shape[1]
    one_hot = np.eye(n_classes)[labels]
    counts, sums = one_hot.sum(axis=0)[:, None], one_hot.T @ shots
    found = Estimate(np.exp(log_p), sums, counts, np.full(n_classes, -np.log(n_classes)))
    for _ in range(REFINE_ROUNDS):
        directions, centre = _directions(found.means)
        mixture = mixture_logits(queries, KAPPA * directions, centre, n_classes)
        posteriors = softmax(mixture + found.log_proportions + log_p, axis=1)
        taken = posteriors.sum(axis=0)
        proportions = (taken + EVEN * len(queries) / n_classes) / ((1 + EVEN) * len(queries))
        found = Estimate(posteriors, sums + posteriors.T @ queries, counts + taken[:, None], np.log(proportions))
    return found


def _directions(means: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(c, d) unit directions of the classes from their centre, and (d,) the centre.

    The centre is the mean of the classes, not of the pictures, which would lie within the most frequent class.
    """
    centre = means.mean(axis=0)
    return unit_rows(means - centre), centre


def _mixture_left_out(found: Estimate, shots: FloatArray, labels: LabelArray) -> FloatArray:
    """(n, c) that the mixture says of each shot when it is taken out of the mean of its class; the queries stay."""
    means, left_out = found.means, np.empty((len(shots), found.posteriors.shape[1]))
    for i, (shot, label) in enumerate(zip(shots, labels.tolist(), strict=True)):
        weight = max(float(found.weights[label, 0]) - 1, 1e-9)  # a class that no query joins has no mean then
        without = means.copy()
        without[label] = (found.sums[label] - shot) / weight
        directions, centre = _directions(without)
        left_out[i] = KAPPA * unit_rows(shot - centre) @ directions.T
    return left_out


def _agree_on_shots(posteriors: FloatArray, queries: FloatArray, shots: FloatArray, labels: LabelArray) -> float:
    """Share of the shots that lie nearest to the mean of their class's queries."""
    taken = posteriors.sum(axis=0)[:, None]
    directions, centre = _directions(posteriors.T @ queries / np.maximum(taken, 1e-12))
    nearest = (unit_rows(shots - centre) @ directions.T).argmax(axis=1)
    return float(np.mean(nearest == labels))
