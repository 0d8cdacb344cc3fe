"""Ward's tree, refined by k-means beside the known classes, cut where the silhouette is best.

Each cut of the tree starts a k-means in which the known means stand still, so that false alarms go to their own class.
Of what is left a group has to be as a class is here: as far from the known ones as these are from each other, as close
together, and larger than the false alarms of one class. The number of groups is the smallest whose silhouette is within
one standard error of the best. One group is an answer too, where its pictures are nearer to each other than to the
known classes by as much.

Rousseeuw, "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis", 1987, with mean
squared distances, which need no pairs of rows; Breiman et al., "Classification and regression trees", 1984, section
3.4.3, for the standard error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.stats import poisson
from sklearn.decomposition import PCA

from clip_fewshot.discovery.base import Partition
from clip_fewshot.discovery.known import KnownRows
from clip_fewshot.discovery.ward_tree import ward_tree
from clip_fewshot.errors import UsageError
from clip_fewshot.types import BoolArray, FloatArray, IndexArray, LabelArray

MIN_CLASSES, MIN_SHOTS = 3, 2  # known, below which nothing says how far apart classes are
COUNTED_AXES = 64  # principal axes; with 192 the counts in docs/figures/discovery.md are the same
CLEAR = 5  # times their spread, beyond which classes are apart whatever their nearest are
APART = 0.6  # of the known classes' distance from their nearest; .5 and .75 count as well
LOOSER = 1.2  # than the loosest known class a new one may be
SPLIT = 0.4  # of it, that groups are apart at least: of more groups the nearest are nearer
EVERY = 10  # numbers of parts tried one by one; above, each is a STEP larger
STEP = 1.15
NEAR = 10  # numbers tried around the best of those
KMEANS_ROUNDS = 6  # of k-means
MIN_GROUP = 4  # images, below which no mean and no spread can be told
FALSE_GROUP = 0.05  # that the false alarms of some known class are as many as a group
ONE_GROUP = 0.9  # of the best silhouette, at which one group is enough


class Clouds(NamedTuple):
    """Classes or groups: (k,) sizes, (k, d) means, and (k,) mean squared distances of members from the true mean."""

    sizes: IndexArray
    means: FloatArray
    spread: FloatArray

    @classmethod
    def from_labels(cls, points: FloatArray, labels: LabelArray) -> Clouds:
        """Of (n, d) points and their (n,) numbers 0, 1, ... without gaps; -1 in none."""
        rows = np.flatnonzero(labels >= 0)
        sizes = np.bincount(labels[rows])
        members = csr_array((np.ones(len(rows)), (labels[rows], rows)), (len(sizes), len(points)))
        means = (members @ points) / sizes[:, None]
        within = np.bincount(labels[rows], ((points[rows] - means[labels[rows]]) ** 2).sum(axis=1))
        return cls(sizes, means, within / np.maximum(sizes - 1, 1))

    def distances(self, points: FloatArray) -> FloatArray:
        """(n, k) mean squared distances of (n, d) points from a member, itself among them where it is one."""
        return np.asarray(_squared(points, self.means) + self.spread * (1 - 1 / self.sizes))

    def gaps(self, other: Clouds) -> FloatArray:
        """(k, l) squared distances of the true means: without what the chance of few members adds. Can be negative."""
        apart = _squared(self.means, other.means)
        return np.asarray(apart - (self.spread / self.sizes)[:, None] - other.spread / other.sizes)


class Yardstick(NamedTuple):
    """What known classes say of new ones: how far apart and how loose classes are."""

    known: Clouds
    apart: float
    loosest: float

    @classmethod
    def from_known(cls, points: FloatArray, classes: LabelArray) -> Yardstick:
        """Of (m, d) known points and their (m,) classes. They share one spread in what few shots add to a mean."""
        own = Clouds.from_labels(points, classes)
        pooled = float(own.spread @ (own.sizes - 1) / (own.sizes - 1).sum())
        known = own._replace(spread=np.full(len(own.sizes), pooled))
        apart = np.clip(_to_nearest(known).mean(), 0, CLEAR * pooled)
        return cls(known, float(apart), float(own.spread.max()))


class Trial(NamedTuple):
    """A number of parts that was tried: (n,) groups, (n,) silhouettes without and with the known classes."""

    parts: int
    labels: LabelArray
    alone: FloatArray
    beside: FloatArray


class Silhouette:
    """The method. It does not look at ``most``, nor at chance."""

    def __init__(self, known: KnownRows | None, most: int, seed: int) -> None:
        if known is None or not can_compare(known):
            got = "none" if known is None else f"{known.n_classes} with {known.fewest} and more"
            want = f"{MIN_CLASSES} known classes of {MIN_SHOTS} images or more, to compare new ones with"
            raise UsageError(
                expected=want, got=got, fix='pass them as reference, or choose method="ward"', where="discover_classes"
            )
        self.known = known

    def part(self, rows: FloatArray) -> Partition:
        """See :class:`clip_fewshot.discovery.base.Discoverer`."""
        everything = np.concatenate([self.known.rows, rows])
        axes = PCA(min(COUNTED_AXES, *everything.shape), random_state=0).fit(everything).components_.T
        points = rows @ axes
        tree = ward_tree(points)
        yard = Yardstick.from_known(self.known.rows @ axes, self.known.classes)
        labels = choose_number(compare_numbers(points, tree, yard), len(rows))
        return Partition(labels, tree, reason=explain(points, tree, yard) if labels.max() < 0 else "")

    def resample(self, rng: np.random.Generator) -> Silhouette:
        """The yardstick of other shots: half of the images of each known class, two at least."""
        classes = self.known.classes
        order = np.lexsort((rng.random(len(classes)), classes))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order)) - np.searchsorted(classes[order], classes[order])
        half = np.maximum(-(-np.bincount(classes) // 2), MIN_SHOTS)
        return Silhouette(self.known.subset(place < half[classes]), 0, 0)


def can_compare(known: KnownRows) -> bool:
    """Whether there are known classes enough."""
    return known.n_classes >= MIN_CLASSES and known.fewest >= MIN_SHOTS


def compare_numbers(points: FloatArray, tree: FloatArray, yard: Yardstick) -> list[Trial]:
    """Trials by number of parts: up to twice the best so far and EVERY more, then closely around the best."""
    most, parts, best, at = max(len(points) // 2, 1), 1, 0.0, count_tight_parts(tree, float(yard.known.spread[0]))
    trials = []
    while parts <= min(most, 2 * at + EVERY):
        for trial in _try(points, tree, parts, yard):
            trials.append(trial)
            if trial.alone.sum() > best:
                best, at = trial.alone.sum(), max(parts, at)
        parts = max(parts + 1, int(parts * STEP)) if parts >= EVERY else parts + 1
    top = max(trials, key=lambda trial: float(trial.alone.sum()), default=None)
    if top is not None and top.parts > EVERY:
        near = np.unique(np.linspace(top.parts / STEP, min(top.parts * STEP, most), NEAR).astype(int))
        trials += [trial for parts in near for trial in _try(points, tree, int(parts), yard)]
    return trials


def count_tight_parts(tree: FloatArray, spread: float) -> int:
    """The fewest parts of Ward's tree whose mean squared distance from their centres is that of known classes.

    Its mergers add height^2 / 2 to the sum of squares. Fewer parts than that are mixtures, of which none is a class.
    """
    within = np.append(0.0, np.cumsum(tree[:, 2] ** 2 / 2))[1:]  # after 1, 2, ... mergers, which are n - parts
    return len(tree) + 1 - int(np.flatnonzero(np.append(True, within <= spread * np.arange(1, len(tree) + 1)))[-1])


def choose_number(trials: list[Trial], n: int) -> LabelArray:
    """(n,) labels of the trial with the fewest groups that is as good as the best; -1 everywhere if there is none."""
    by_number: dict[int, Trial] = {}
    for trial in sorted(trials, key=lambda trial: -float(trial.beside.sum())):
        by_number.setdefault(int(trial.labels.max()) + 1, trial)
    single = by_number.pop(1, None)
    several = [by_number[number] for number in sorted(by_number)]
    if not several:
        return np.full(n, -1) if single is None else single.labels
    best = max(several, key=lambda trial: float(trial.alone.sum()))
    enough = next(trial for trial in several if _is_level(best.alone - trial.alone))
    if single is not None and single.beside.sum() >= ONE_GROUP * enough.beside.sum():
        return single.labels
    return enough.labels


def _is_level(lead: FloatArray) -> bool:
    return bool(lead.mean() <= lead.std() / np.sqrt(len(lead)))


def _try(points: FloatArray, tree: FloatArray, parts: int, yard: Yardstick) -> Iterator[Trial]:
    """The parts as they are, and with those merged that no two known classes are as near as."""
    cut = _renumbered(fcluster(tree, parts, "maxclust").astype(np.int64))
    plain = refine(points, cut, yard.known, KMEANS_ROUNDS)
    merged = merge_near(points, plain, yard)
    for labels in (plain,) if np.array_equal(plain, merged) else (plain, merged):
        labels = refine(points, keep_classes(points, labels, yard), yard.known, 1)  # what was left goes where it fits
        if labels.max() >= 0:
            groups = Clouds.from_labels(points, labels)
            if len(groups.sizes) == 1 or np.median(_to_nearest(groups)) >= SPLIT * yard.apart:
                alone, beside = (measure_silhouettes(points, labels, groups, known) for known in (None, yard.known))
                yield Trial(parts, labels, alone, beside)


def merge_near(points: FloatArray, labels: LabelArray, yard: Yardstick) -> LabelArray:
    """(n,) groups, those of one class put together: Ward's tree halves a large class before it parts small ones."""
    if labels.max() < 1:
        return labels
    groups = Clouds.from_labels(points, labels)
    gaps = np.maximum(groups.gaps(groups), 0)
    tree = linkage(gaps[np.triu_indices(len(gaps), 1)], "average")
    into = fcluster(tree, APART * yard.apart, "distance").astype(np.int64) - 1
    return refine(points, np.where(labels >= 0, into[labels], -1), yard.known, KMEANS_ROUNDS)


def refine(points: FloatArray, labels: LabelArray, known: Clouds, rounds: int) -> LabelArray:
    """(n,) groups after rounds of k-means beside known means that stand still; -1 where a known class is nearer.

    A picture draws its group's mean to itself; that, and the chance of few members, is taken off all distances.
    """
    to_known = (_squared(points, known.means) - known.spread / known.sizes).min(axis=1)
    for _ in range(rounds):
        if labels.max() < 0:
            break
        groups, rows = Clouds.from_labels(points, labels), np.flatnonzero(labels >= 0)
        to_group = _squared(points, groups.means)
        size = groups.sizes[labels[rows]]
        to_group[rows, labels[rows]] *= size / np.maximum(size - 1, 1)
        nearest = to_group.argmin(axis=1)
        before, labels = labels, _renumbered(np.where(to_group.min(axis=1) < to_known, nearest, -1))
        if np.array_equal(before, labels):
            break
    return labels


def keep_classes(points: FloatArray, labels: LabelArray, yard: Yardstick) -> LabelArray:
    """(n,) labels of the groups that are as far from known classes, as close together and as large as a class is.

    What is in no group counts as false alarms. Those of one known class are Poisson, and the smallest group has to be
    more than the most that some class is likely to have (Bonferroni over the classes).
    """
    if labels.max() < 0:
        return labels
    far, tight, large = judge_clouds(points, labels, yard)
    return _renumbered(np.where((labels >= 0) & (far & tight & large)[labels], labels, -1))


def judge_clouds(points: FloatArray, labels: LabelArray, yard: Yardstick) -> BoolArray:
    """(3, k) which groups are far enough from known classes, tight enough, and large enough."""
    groups, n_known = Clouds.from_labels(points, labels), len(yard.known.sizes)
    far = groups.gaps(yard.known).min(axis=1) >= APART * yard.apart
    alarms = (labels < 0).sum() + groups.sizes[~far].sum()
    more = max(MIN_GROUP - 1, poisson.ppf(1 - FALSE_GROUP / n_known, alarms / n_known))
    return np.array([far, groups.spread <= LOOSER * yard.loosest, groups.sizes > more])


def explain(points: FloatArray, tree: FloatArray, yard: Yardstick) -> str:
    """Why there is no group: what keeps the parts that are as tight as known classes from being one."""
    parts = count_tight_parts(tree, float(yard.known.spread[0]))
    cut = _renumbered(fcluster(tree, parts, "maxclust").astype(np.int64))
    labels = refine(points, cut, yard.known, KMEANS_ROUNDS)
    if labels.max() < 0:
        return "every image is nearer to a known class than to the others: they look like false alarms"
    far, tight, large = judge_clouds(points, labels, yard)
    told = [
        f"{(~far).sum():,} lie as near to a known class as its own images do (more shots of it would tell)",
        f"{(far & ~tight).sum():,} are looser than the known classes (more unknown images would part them)",
        f"{(far & tight & ~large).sum():,} are too small for what false alarms can be (more images of them are needed)",
    ]
    return f"of {len(far):,} parts " + ", ".join(line for line in told if not line.startswith("0 "))


def measure_silhouettes(points: FloatArray, labels: LabelArray, groups: Clouds, known: Clouds | None) -> FloatArray:
    """(n,) of the pictures in groups, against the other groups, and known classes if given; 0 for those in none."""
    found, rows = np.zeros(len(points)), np.flatnonzero(labels >= 0)
    far = groups.distances(points[rows])
    place = np.arange(len(rows)), labels[rows]
    size = groups.sizes[labels[rows]]
    own = far[place] * size / np.maximum(size - 1, 1)
    far[place] = np.inf
    if known is not None:
        far = np.concatenate([far, known.distances(points[rows])], axis=1)
    other = far.min(axis=1)
    if np.isfinite(other).all():
        found[rows] = (other - own) / np.maximum(np.maximum(own, other), np.finfo(float).tiny)
    return found


def _squared(a: FloatArray, b: FloatArray) -> FloatArray:
    """(n, k) squared distances; scikit-learn's function checks its input for longer than these take."""
    return np.asarray(np.maximum((a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1), 0))


def _to_nearest(clouds: Clouds) -> FloatArray:
    """(k,) squared distance of each from its nearest."""
    gaps = clouds.gaps(clouds)
    np.fill_diagonal(gaps, np.inf)
    return np.asarray(gaps.min(axis=1))


def _renumbered(labels: LabelArray) -> LabelArray:
    """The same groups as 0, 1, ... without gaps; -1 stays."""
    names, of = np.unique(labels, return_inverse=True)
    return np.asarray(of - int(names[0] < 0), dtype=np.int64)
