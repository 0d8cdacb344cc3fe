"""How well clusters agree with classes. The truth comes first; results are fractions in [0, 1] unless they say more."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.metrics import check_paired, contingency_table
from clip_fewshot.runtime.arrays import as_yes_or_no
from clip_fewshot.types import BoolArray, FloatArray


class OpenAccuracy(NamedTuple):
    """Clustering accuracy over all points, those of old and those of new classes; None where there are none."""

    all: float
    old: float | None
    new: float | None


def clustering_accuracy(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Accuracy under the best one-to-one match of clusters and classes (Hungarian); surplus ones match nothing."""
    table = contingency_table(*check_paired(labels, clusters, compared=False))
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def gcd_accuracy(truth: ArrayLike, found: ArrayLike, old: ArrayLike) -> OpenAccuracy:
    """All/old/new accuracy by ONE match over all points, the "v2" metric of generalised category discovery.

    Vaze, Han, Vedaldi, Zisserman, "Generalized Category Discovery", 2022, and its code's later correction: matching
    old and new separately lets a cluster count for two classes. ``old``: (n,) true where the class was known before.
    """
    hit, known = gcd_hits(truth, found), as_yes_or_no(old, "old")
    if known.shape != hit.shape:
        fix = "say of each picture whether its class was known"
        raise UsageError(expected=f"old {hit.shape}", got=f"{known.shape}", fix=fix, where="gcd_accuracy")
    sides = (hit[known], hit[~known])
    return OpenAccuracy(float(hit.mean()), *(float(side.mean()) if len(side) else None for side in sides))


def gcd_hits(truth: ArrayLike, found: ArrayLike) -> BoolArray:
    """(n,) which points the best one-to-one match puts right; none whose group is a negative number: it is in none."""
    classes, groups = check_paired(truth, found, compared=False)
    grouped = groups >= 0 if np.issubdtype(groups.dtype, np.number) else np.ones(len(groups), dtype=bool)
    _, class_of = np.unique(classes, return_inverse=True)
    _, group_of = np.unique(groups, return_inverse=True)
    right = np.zeros((class_of.max() + 1, group_of.max() + 1), dtype=np.int64)
    np.add.at(right, (class_of[grouped], group_of[grouped]), 1)
    match = linear_sum_assignment(right, maximize=True)
    right[:] = 0
    right[match] = 1
    return np.asarray(right[class_of, group_of].astype(bool) & grouped)


def ari(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Adjusted Rand index (Hubert and Arabie, "Comparing partitions", 1985): 1 equal, 0 on average by chance."""
    table = contingency_table(*check_paired(labels, clusters, compared=False)).astype(np.float64)
    together = _pairs(table).sum()
    in_class, in_cluster, total = _pairs(table.sum(1)).sum(), _pairs(table.sum(0)).sum(), _pairs(table.sum())
    if in_class == in_cluster == together:  # equal partitions; also all in one, or each alone
        return 1.0
    expected = in_class * in_cluster / total
    return float((together - expected) / ((in_class + in_cluster) / 2 - expected))


def nmi(labels: ArrayLike, clusters: ArrayLike) -> float:
    """Mutual information divided by the mean of the two entropies, in [0, 1]; 1 when both have one group."""
    joint = contingency_table(*check_paired(labels, clusters, compared=False)).astype(np.float64)
    joint /= joint.sum()
    entropy = _entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0))
    if entropy == 0:
        return 1.0
    return float(np.clip(2 * (entropy - _entropy(joint.ravel())) / entropy, 0, 1))


def _pairs(counts: Any) -> Any:
    return counts * (counts - 1) / 2


def _entropy(share: FloatArray) -> float:
    present = share[share > 0]
    return float(-(present * np.log(present)).sum())
