"""Semi-supervised k-means, the method of generalised category discovery.

Vaze, Han, Vedaldi, Zisserman, "Generalized Category Discovery", 2022, sections 3.2 and 3.3: known images keep their
class in every step, the other centres start by k-means++, and the number of centres is the one at which plain k-means
of all images puts the known ones best, found by Brent's method. The rule is theirs, not ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from clip_fewshot.discovery.base import Partition
from clip_fewshot.discovery.known import KnownRows, as_pair
from clip_fewshot.discovery.ward_tree import ward_tree
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation import clustering
from clip_fewshot.runtime.arrays import as_rows
from clip_fewshot.runtime.rng import derive_seed, generator
from clip_fewshot.types import FloatArray, LabelArray

STARTS, KMEANS_STEPS = 10, 100
COUNTED_ROWS = 5_000  # unknown rows that the number of classes is estimated from
COUNT_STARTS = 3


class SemiSupervised:
    """Semi-supervised k-means: a group is a centre without known images. No tree decides; Ward's is drawn."""

    def __init__(self, known: KnownRows | None, most: int, seed: int) -> None:
        if known is None:
            fix = 'pass them as reference, or choose method="ward"'
            raise UsageError(expected="known classes to start from", got="none", fix=fix, where="discover_classes")
        self.known, self.most, self.seed = known, most, seed

    def part(self, rows: FloatArray) -> Partition:
        """See :class:`clip_fewshot.discovery.base.Discoverer`."""
        labels = _numbered(rows, self.known, None, self.most, self.seed)
        return Partition(np.maximum(labels - self.known.n_classes, -1), ward_tree(rows))

    def resample(self, rng: np.random.Generator) -> SemiSupervised:
        """Another seed: fewer known images would be another problem."""
        return SemiSupervised(self.known, self.most, int(rng.integers(2**31)))


def semi_supervised_kmeans(
    X: FloatArray,
    reference: tuple[FloatArray, NDArray[np.generic]],
    groups: int | FloatArray | None = None,
    *,
    most: int = 20,
    seed: int = 0,
) -> LabelArray:
    """A class or a new group for each of (n, d) features of images, known and unknown ones together.

    Args:
        reference: (m, d) features of known images and their (m,) classes.
        groups: how many new groups; or (g, d) centres to start them from, as the means of discovered groups; or
            None: as many as make all k-means of known and unknown images agree best with the known classes.
        most: new groups at most, where their number is estimated.
        seed: of the starts.

    Returns:
        (n,) the place of the class among the sorted known ones, 0..c-1; or c + g for new group g.
    """
    known = KnownRows.from_features(*as_pair(reference))
    X = as_rows(X, "semi_supervised_kmeans", known.rows.shape[1])
    if not len(X):
        return np.empty(0, dtype=np.int64)
    rows = normalize(X)
    if groups is None or isinstance(groups, int):
        return _numbered(rows, known, groups, most, seed)
    centres = normalize(as_rows(groups, "groups", known.rows.shape[1]))
    return assign_centres(rows, known, [np.concatenate([known.means(), centres])])


def _numbered(rows: FloatArray, known: KnownRows, groups: int | None, most: int, seed: int) -> LabelArray:
    """With so many new groups, or as many as there seem to be. Draws go by a random order of features, not of rows."""
    order = np.argsort(rows @ generator(seed, "order").normal(size=rows.shape[1]), kind="stable")
    ordered, labels = rows[order], np.empty(len(rows), dtype=np.int64)
    if groups is None:
        groups = estimate_groups(ordered, known, most, seed)
    labels[order] = assign_centres(ordered, known, draw_centres(ordered, known, groups, seed))
    return labels


def estimate_groups(rows: FloatArray, known: KnownRows, most: int, seed: int) -> int:
    """New groups, 0..most: the smallest number that Brent's search met at its best accuracy on known images."""
    if len(rows) > COUNTED_ROWS:
        rows = rows[np.sort(generator(seed, "counted").choice(len(rows), COUNTED_ROWS, replace=False))]
    together = np.concatenate([known.rows, rows])
    most = min(most, len(np.unique(together, axis=0)) - known.n_classes)
    errors: dict[int, float] = {}

    def error(groups: float) -> float:
        new = round(groups)
        if new not in errors:
            state = derive_seed(seed, "number of groups", new) % 2**32
            fitted = KMeans(known.n_classes + new, n_init=COUNT_STARTS, random_state=state).fit(together)
            errors[new] = 1 - clustering.clustering_accuracy(known.classes, fitted.labels_[: len(known.rows)])
        return errors[new]

    if most < 1:
        return 0
    minimize_scalar(error, bounds=(0, most), method="bounded", options={"xatol": 0.5})
    return min(errors, key=lambda groups: (errors[groups], groups))


def draw_centres(rows: FloatArray, known: KnownRows, groups: int, seed: int) -> list[FloatArray]:
    """STARTS times (c + g, d) centres: the known means, then rows by k-means++ (Arthur, Vassilvitskii, 2007)."""
    means = known.means()
    return [_plus_plus(rows, means, groups, generator(seed, "start", i)) for i in range(STARTS if groups else 1)]


def _plus_plus(rows: FloatArray, means: FloatArray, groups: int, rng: np.random.Generator) -> FloatArray:
    """The means, and up to ``groups`` rows, each drawn with its squared distance to the nearest centre so far."""
    centres = list(means)
    nearest = _squared(rows, means).min(axis=1)
    for _ in range(groups):
        if nearest.sum() <= 1e-12:
            break
        centres.append(rows[rng.choice(len(rows), p=nearest / nearest.sum())])
        nearest = np.minimum(nearest, _squared(rows, centres[-1][None])[:, 0])
    return np.array(centres)


def assign_centres(rows: FloatArray, known: KnownRows, starts: list[FloatArray]) -> LabelArray:
    """(n,) centre of each row after the best of the starts, by the scatter of known and unknown rows."""
    ends = [_descended(rows, known, centres) for centres in starts]
    return min(ends, key=lambda end: end[1])[0]


def _descended(rows: FloatArray, known: KnownRows, centres: FloatArray) -> tuple[LabelArray, float]:
    own = np.eye(len(centres))[known.classes].T @ known.rows  # sums of the known images, fixed in every step
    many = np.bincount(known.classes, minlength=len(centres)).astype(np.float64)
    labels = np.full(len(rows), -1)
    for _ in range(KMEANS_STEPS):
        squared = _squared(rows, centres)
        before, labels = labels, squared.argmin(axis=1)
        if (labels == before).all():
            break
        sizes = many + np.bincount(labels, minlength=len(centres))
        sums = own + np.array([rows[labels == c].sum(axis=0) for c in range(len(centres))])
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
    scatter = squared.min(axis=1).sum() + ((known.rows - centres[known.classes]) ** 2).sum()
    return labels.astype(np.int64), float(scatter)


def _squared(rows: FloatArray, centres: FloatArray) -> FloatArray:
    """(n, k) squared distances; never below 0."""
    squared = (rows**2).sum(axis=1)[:, None] - 2 * rows @ centres.T + (centres**2).sum(axis=1)
    return np.asarray(np.maximum(squared, 0))
