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
from scipy.special import pdtr
from sklearn.decomposition import PCA

from clip_fewshot.discovery.base import Partition
from clip_fewshot.discovery.clouds import BesideKnown, Clouds, Yardstick, compute_means, squared_distances, to_nearest
from clip_fewshot.discovery.known import KnownRows
from clip_fewshot.discovery.tree_cuts import TreeCuts
from clip_fewshot.discovery.ward_tree import ward_tree
from clip_fewshot.errors import UsageError
from clip_fewshot.types import BoolArray, FloatArray, LabelArray

MIN_CLASSES, MIN_SHOTS = 3, 2  # known, below which nothing says how far apart classes are
COUNTED_AXES = 64  # principal axes; with 192 the counts in docs/figures/discovery.md are the same
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


class Trial(NamedTuple):
    """A number of parts that was tried: (n,) groups, (n,) silhouettes without and with the known classes."""

    parts: int
    labels: LabelArray
    alone: FloatArray
    beside: FloatArray


class Silhouette:
    """Ward's tree and k-means beside the known classes, cut by the silhouette. Not by ``most``, nor by chance."""

    def __init__(self, known: KnownRows | None, most: int, seed: int, axes: FloatArray | None = None) -> None:
        if known is None or not can_compare(known):
            got = "none" if known is None else f"{known.n_classes} with {known.fewest} and more"
            want = f"{MIN_CLASSES} known classes of {MIN_SHOTS} images or more, to compare new ones with"
            raise UsageError(
                expected=want, got=got, fix='pass them as reference, or choose method="ward"', where="discover_classes"
            )
        self.known, self.axes = known, axes
        self.found: dict[int, LabelArray] = {}

    def part(self, rows: FloatArray) -> Partition:
        """See :class:`clip_fewshot.discovery.base.Discoverer`."""
        if self.axes is None:
            everything = np.concatenate([self.known.rows, rows])
            self.axes = PCA(min(COUNTED_AXES, *everything.shape), random_state=0).fit(everything).components_.T
        yard = Yardstick.from_known(self.known.rows @ self.axes, self.known.classes)
        new = BesideKnown.from_points(rows @ self.axes, yard)
        tree = TreeCuts.from_mergers(ward_tree(new.points))
        best = keep_best(compare_numbers(new, tree))
        self.found = {number: trial.labels for number, trial in best.items()}
        labels = choose_number(best, len(rows))
        return Partition(labels, tree.mergers, reason=explain(new, tree) if labels.max() < 0 else "")

    def resample(self, rng: np.random.Generator) -> Silhouette:
        """The yardstick of other shots: half of the images of each known class, two at least."""
        classes = self.known.classes
        order = np.lexsort((rng.random(len(classes)), classes))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order)) - np.searchsorted(classes[order], classes[order])
        half = np.maximum(-(-np.bincount(classes) // 2), MIN_SHOTS)
        return Silhouette(self.known.subset(place < half[classes]), 0, 0, self.axes)


def can_compare(known: KnownRows) -> bool:
    """Whether there are known classes enough."""
    return known.n_classes >= MIN_CLASSES and known.fewest >= MIN_SHOTS


def compare_numbers(new: BesideKnown, tree: TreeCuts) -> list[Trial]:
    """Trials by number of parts: up to twice the best so far and EVERY more, then closely around the best."""
    most, parts, best, at = max(len(new.points) // 2, 1), 1, 0.0, count_tight_parts(tree, new.yard.spread)
    trials = []
    while parts <= min(most, 2 * at + EVERY):
        for trial in _try(new, tree, parts):
            trials.append(trial)
            if trial.alone.sum() > best:
                best, at = trial.alone.sum(), max(parts, at)
        parts = max(parts + 1, int(parts * STEP)) if parts >= EVERY else parts + 1
    top = max(trials, key=lambda trial: float(trial.alone.sum()), default=None)
    if top is not None and top.parts > EVERY:
        near = np.unique(np.linspace(top.parts / STEP, min(top.parts * STEP, most), NEAR).astype(int))
        trials += [trial for parts in near for trial in _try(new, tree, int(parts))]
    return trials


def count_tight_parts(tree: TreeCuts, spread: float) -> int:
    """The fewest parts of Ward's tree whose mean squared distance from their centres is that of known classes.

    Its mergers add height^2 / 2 to the sum of squares. Fewer parts than that are mixtures, of which none is a class.
    """
    within = np.cumsum(tree.mergers[:, 2] ** 2 / 2)  # after 1, 2, ... mergers, which are n - parts
    n = len(tree.place)
    return n - int(np.flatnonzero(np.append(True, within <= spread * np.arange(1, n)))[-1])


def keep_best(trials: list[Trial]) -> dict[int, Trial]:
    """The best trial of each number of groups, by ascending number."""
    best: dict[int, Trial] = {}
    for trial in sorted(trials, key=lambda trial: -float(trial.beside.sum())):
        best.setdefault(int(trial.labels.max()) + 1, trial)
    return dict(sorted(best.items()))


def choose_number(trials: dict[int, Trial], n: int) -> LabelArray:
    """(n,) labels of the trial with the fewest groups that is as good as the best; -1 everywhere if there is none."""
    single = trials.get(1)
    several = [trial for number, trial in trials.items() if number > 1]
    if not several:
        return np.full(n, -1) if single is None else single.labels
    best = max(several, key=lambda trial: float(trial.alone.sum()))
    enough = next(trial for trial in several if _is_level(best.alone - trial.alone))
    if single is not None and single.beside.sum() >= ONE_GROUP * enough.beside.sum():
        return single.labels
    return enough.labels


def _is_level(lead: FloatArray) -> bool:
    return bool(lead.mean() <= lead.std() / np.sqrt(len(lead)))


def _try(new: BesideKnown, tree: TreeCuts, parts: int) -> Iterator[Trial]:
    """The parts as they are, and with those merged that no two known classes are as near as."""
    plain = refine(new, tree.cut(parts), KMEANS_ROUNDS)
    merged = merge_near(new, plain)
    for labels in (plain,) if np.array_equal(plain, merged) else (plain, merged):
        labels = refine(new, keep_classes(new, labels), 1)  # what was left goes where it fits
        if labels.max() >= 0:
            groups = Clouds.from_labels(new.points, labels)
            if len(groups.sizes) == 1 or np.median(to_nearest(groups)) >= SPLIT * new.yard.apart:
                yield Trial(parts, labels, *measure_silhouettes(new, labels, groups))


def merge_near(new: BesideKnown, labels: LabelArray) -> LabelArray:
    """(n,) groups, those of one class put together: Ward's tree halves a large class before it parts small ones."""
    if labels.max() < 1:
        return labels
    groups = Clouds.from_labels(new.points, labels)
    gaps = np.maximum(groups.gaps(groups), 0)
    if to_nearest(groups).min() > APART * new.yard.apart:
        return labels
    tree = linkage(gaps[np.triu_indices(len(gaps), 1)], "average")
    into = fcluster(tree, APART * new.yard.apart, "distance").astype(np.int64) - 1
    return refine(new, np.where(labels >= 0, into[labels], -1), KMEANS_ROUNDS)


def refine(new: BesideKnown, labels: LabelArray, rounds: int) -> LabelArray:
    """(n,) groups after rounds of k-means beside known means that stand still; -1 where a known class is nearer.

    A picture draws its group's mean to itself; that, and the chance of few members, is taken off all distances.
    """
    for _ in range(rounds):
        if labels.max() < 0:
            break
        rows = np.flatnonzero(labels >= 0)
        sizes, means = compute_means(new.points, rows, labels[rows])
        to_group, size = squared_distances(new.points, means), sizes[labels[rows]]
        to_group[rows, labels[rows]] *= size / np.maximum(size - 1, 1)
        nearest = to_group.argmin(axis=1)
        before, labels = labels, _renumbered(np.where(to_group.min(axis=1) < new.to_mean, nearest, -1))
        if np.array_equal(before, labels):
            break
    return labels


def keep_classes(new: BesideKnown, labels: LabelArray) -> LabelArray:
    """(n,) labels of the groups that are as far from known classes, as close together and as large as a class is.

    What is in no group counts as false alarms. Those of one known class are Poisson, and the smallest group has to be
    more than the most that some class is likely to have (Bonferroni over the classes).
    """
    if labels.max() < 0:
        return labels
    far, tight, large = judge_clouds(new, labels)
    return _renumbered(np.where((labels >= 0) & (far & tight & large)[labels], labels, -1))


def judge_clouds(new: BesideKnown, labels: LabelArray) -> BoolArray:
    """(3, k) which groups are far enough from known classes, tight enough, and large enough."""
    groups, yard, n_known = Clouds.from_labels(new.points, labels), new.yard, len(new.yard.known.sizes)
    far = groups.gaps(yard.known).min(axis=1) >= APART * yard.apart
    alarms = (labels < 0).sum() + groups.sizes[~far].sum()
    more = (groups.sizes >= MIN_GROUP) & (pdtr(groups.sizes - 1, alarms / n_known) >= 1 - FALSE_GROUP / n_known)
    return np.array([far, groups.spread <= LOOSER * yard.loosest, more])


def explain(new: BesideKnown, tree: TreeCuts) -> str:
    """Why there is no group: what keeps the parts that are as tight as known classes from being one."""
    labels = refine(new, tree.cut(count_tight_parts(tree, new.yard.spread)), KMEANS_ROUNDS)
    if labels.max() < 0:
        return "every image is nearer to a known class than to the others: they look like false alarms"
    far, tight, large = judge_clouds(new, labels)
    told = [
        f"{(~far).sum():,} lie as near to a known class as its own images do (more shots of it would tell)",
        f"{(far & ~tight).sum():,} are looser than the known classes (more unknown images would part them)",
        f"{(far & tight & ~large).sum():,} are too small for what false alarms can be (more images of them are needed)",
    ]
    return f"of {len(far):,} parts " + ", ".join(line for line in told if not line.startswith("0 "))


def measure_silhouettes(new: BesideKnown, labels: LabelArray, groups: Clouds) -> tuple[FloatArray, FloatArray]:
    """(n,) against the other groups, and against known classes too; 0 for pictures in no group, or none to compare."""
    rows = np.flatnonzero(labels >= 0)
    far = groups.distances(new.points[rows])
    place, size = (np.arange(len(rows)), labels[rows]), groups.sizes[labels[rows]]
    own = far[place] * size / np.maximum(size - 1, 1)
    far[place] = np.inf
    alone, beside = np.zeros((2, len(labels)))
    other = far.min(axis=1)
    if len(groups.sizes) > 1:
        alone[rows] = _silhouettes(own, other)
    beside[rows] = _silhouettes(own, np.minimum(other, new.to_members[rows]))
    return alone, beside


def _silhouettes(own: FloatArray, other: FloatArray) -> FloatArray:
    return np.asarray((other - own) / np.maximum(np.maximum(own, other), np.finfo(float).tiny))


def _renumbered(labels: LabelArray) -> LabelArray:
    """The same groups as 0, 1, ... without gaps; -1 stays."""
    there = np.bincount(labels + 1) > 0
    there[0] = False
    return np.asarray(np.append(-1, np.cumsum(there[1:]) - 1)[labels + 1], dtype=np.int64)
