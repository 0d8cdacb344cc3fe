"""Groups of unknown pictures take in those that were called known and are more like a group than like any class.

The warning at alpha is made not to disturb, and most pictures of new classes pass it where classes are alike. So the
gate is left out: a picture's p-value is turned into the probability that its class is known (a local false discovery
rate), which is the prior of a mixture over known classes and groups. It starts from the groups of what is more likely
unknown; the known classes stay where their images are. Told in figures: docs/figures/undecided.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from sklearn.isotonic import isotonic_regression
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import normalize

from clip_fewshot.discovery.base import Discovery
from clip_fewshot.discovery.discover import DiscovererPart, discover_classes
from clip_fewshot.discovery.gap import project_on_axes
from clip_fewshot.discovery.known import KnownRows, as_pair
from clip_fewshot.discovery.parts import find_nearest_to_centre, number_by_size
from clip_fewshot.discovery.semi_supervised import KMEANS_STEPS
from clip_fewshot.discovery.ward_tree import ward_tree
from clip_fewshot.types import BoolArray, FloatArray, IndexArray, LabelArray

UNDECIDED = 0.5  # p-value up to which an image may be of a new class; 0 to 5 % of the new ones lie above
SETTLED = 0.25  # from here to UNDECIDED all are taken for known: p-values of known images are uniform


class Regrouped(NamedTuple):
    """Which images are unknown or joined a group: (m,) ``rows``, ascending, and their groups in that order."""

    rows: IndexArray
    found: Discovery


def discover_undecided(
    X: FloatArray,
    unknown: BoolArray,
    p_values: FloatArray,
    reference: tuple[FloatArray, LabelArray],
    *,
    method: str | DiscovererPart | None = None,
    seed: int = 0,
) -> Regrouped:
    """Group what was called unknown and what looks like it.

    Args:
        X: (n, d) features of images that were judged, in any order.
        unknown: (n,) which were called unknown. p_values: (n,) of all, in (0, 1]; above ``UNDECIDED`` and not called
            unknown an image has no say.
        reference, method, seed: as of :func:`discover_classes`.

    Example:
        >>> import numpy as np
        >>> from clip_fewshot.discovery.undecided import discover_undecided
        >>> rng = np.random.default_rng(0)
        >>> classes = np.repeat(np.arange(5), 20)
        >>> X = np.eye(5, 16)[classes] + rng.normal(0, 0.1, (100, 16))
        >>> new = classes[50:] > 2  # two of five classes are new; half of the images are known
        >>> p = np.where(new, 0.04, rng.uniform(0.05, 1, 50))
        >>> found = discover_undecided(X[50:], new & (np.arange(50) % 2 == 0), p, (X[:50], classes[:50]))
        >>> len(found.rows), found.found.n_clusters
        (40, 2)
    """
    known = KnownRows.from_features(*as_pair(reference))
    looked = np.flatnonzero(unknown | (p_values <= UNDECIDED))
    if not len(looked):
        return Regrouped(looked, discover_classes(X[looked], reference=reference, method=method, seed=seed))
    flagged, prior, rows = unknown[looked], estimate_prior(p_values[looked]), normalize(X[looked])
    start = flagged | (prior < 0.5)
    found = discover_classes(rows[start], reference=reference, method=method, seed=seed)
    groups = np.full(len(rows), -1)
    groups[start] = found.labels
    joined = join_groups(rows, groups, prior, known)
    kept = flagged | (joined >= 0)
    tree = found.linkage
    if (kept != start).any():  # fewer than two have no tree
        tree = ward_tree(project_on_axes(rows[kept])) if np.count_nonzero(kept) > 1 else np.empty((0, 4))
    return Regrouped(looked[kept], number_groups(found, rows[kept], joined[kept], tree))


def estimate_prior(p: FloatArray) -> FloatArray:
    """(n,) probability that an image is of a known class, by its p-value alone: the local false discovery rate.

    Efron, Tibshirani, Storey, Tusher, "Empirical Bayes analysis of a microarray experiment", 2001, eq. 3.4; the density
    of p-values falls (Grenander, "On the theory of mortality measurement II", 1956), and its level between ``SETTLED``
    and ``UNDECIDED`` is that of known images (Storey, "A direct approach to false discovery rates", 2002).
    """
    if not len(p):
        return np.empty(0)
    values, place, counts = np.unique(np.maximum(p, 1e-12), return_inverse=True, return_counts=True)
    widths = np.diff(values, prepend=0.0)
    density = isotonic_regression(counts / widths, sample_weight=widths, increasing=False)
    settled = 1 + np.sum((p > SETTLED) & (p <= UNDECIDED))
    return np.asarray(np.minimum(settled / (UNDECIDED - SETTLED) / density, 1)[place])


def join_groups(rows: FloatArray, groups: LabelArray, prior: FloatArray, known: KnownRows) -> LabelArray:
    """The (n,) groups once every row has gone where it most likely belongs; -1: to a known class, or to none.

    Classification by mixture likelihood (Celeux, Govaert, "A classification EM algorithm", 1992): centres of equal
    spread, whose share is ``prior`` for all known classes and the rest for all groups. Soft shares of rows end in the
    same groups within .005. At last, rows go that lie farther from their group than any known image, left out, from its
    class: foreign pictures in a group fall from .93 to .69 (digits-wild), for .006 of the new ones.

    Args:
        rows: (n, d) of unit length. groups: (n,) to start from, 0..g-1, or -1. prior: (n,), see :func:`estimate_prior`.
    """
    count, spread = int(groups.max(initial=-1)) + 1, measure_spread(known)
    if not count or not spread.axes:
        return groups
    cost = measure_known(rows, prior, known, spread)
    centres = _centres(rows, groups, np.zeros((count, rows.shape[1])))
    for _ in range(KMEANS_STEPS):
        before, groups = groups, choose_group(rows, centres, cost)
        if (groups == before).all():
            break
        centres = _centres(rows, groups, centres)
    return drop_apart(rows, centres, groups, spread)


def measure_known(rows: FloatArray, prior: FloatArray, known: KnownRows, spread: ClassSpread) -> FloatArray:
    """(n,) squared distance to a group, below which a row rather belongs there than to the nearest known class.

    Distances to the mean of few shots are too large by what that mean errs, which is taken off.
    """
    least = 1 / (len(known.rows) + 1)
    prior = np.clip(prior, least, 1 - least)
    price = 2 * spread.within / spread.axes * np.log((1 - prior) / prior)
    to_known = euclidean_distances(rows, known.means(), squared=True) - spread.within / np.bincount(known.classes)
    return np.asarray(to_known.min(axis=1) + price)


def choose_group(rows: FloatArray, centres: FloatArray, cost: FloatArray) -> LabelArray:
    """(n,) the nearest of (g, d) centres; -1 where :func:`measure_known` is below its squared distance."""
    squared = euclidean_distances(rows, centres, squared=True)
    return np.where(squared.min(axis=1) < cost, squared.argmin(axis=1), -1)


def drop_apart(rows: FloatArray, centres: FloatArray, groups: LabelArray, spread: ClassSpread) -> LabelArray:
    """The groups without rows that lie farther from the centre than any known image from that of its class."""
    return np.where(((rows - centres[groups]) ** 2).sum(axis=1) > spread.farthest, -1, groups)


class ClassSpread(NamedTuple):
    """How far images of a class lie apart.

    Attributes:
        within: mean squared distance from the class's centre; 0 with one image of each class.
        axes: along how many axes of equal variance they would lie; 0 with one image of each class.
        farthest: the largest squared distance of an image from the centre of the others of its class.
    """

    within: float
    axes: float
    farthest: float


def measure_spread(known: KnownRows) -> ClassSpread:
    """The spread within known classes, free of the bias that few images bring.

    Axes: the trace of the covariance squared, over the trace of its square, which a sample makes too large; Bai,
    Saranadasa, "Effect of high dimension", 1996, eq. 3.4. 8 and 16 shots so give 22 and 21 on digits-wild; 15 and 18
    without.
    """
    within, shots = known.rows - known.means()[known.classes], np.bincount(known.classes)[known.classes]
    free = len(within) - known.n_classes
    total = float((within**2).sum()) / max(free, 1)
    if free < 2 or total < 1e-12:
        return ClassSpread(0.0, 0.0, 0.0)
    table = within.T @ within if within.shape[1] < len(within) else within @ within.T
    square = free**2 / ((free + 2) * (free - 1)) * ((table**2).sum() / free**2 - total**2 / free)
    several = shots > 1
    left_out = (within[several] ** 2).sum(axis=1) * (shots[several] / (shots[several] - 1)) ** 2
    return ClassSpread(total, total**2 / max(float(square), total**2 / within.shape[1]), float(left_out.max()))


def _centres(rows: FloatArray, groups: LabelArray, before: FloatArray) -> FloatArray:
    """(g, d) means; a group that lost all of its rows stays where it was."""
    members = [groups == k for k in range(len(before))]
    return np.array([rows[own].mean(axis=0) if own.any() else old for own, old in zip(members, before, strict=True)])


def number_groups(found: Discovery, rows: FloatArray, groups: LabelArray, tree: FloatArray) -> Discovery:
    """What was found, for (m, d) rows, their groups by the old numbers, and their tree: the largest group first."""
    labels, count = number_by_size(groups, 1)
    before = [int(groups[labels == k][0]) for k in range(count)]
    exemplars = np.array([find_nearest_to_centre(rows, labels == k) for k in range(count)], dtype=np.int64)
    low, high = found.interval
    return replace(
        found,
        labels=labels,
        n_clusters=count,
        linkage=tree,
        exemplars=exemplars,
        interval=(min(low, count), max(high, count)),
        stability=tuple(found.stability[k] for k in before),
        reason="" if count else found.reason or "the pictures of each group are more like a known class, by p-value",
    )
