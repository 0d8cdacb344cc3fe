"""Leave-one-out scores of neighbour detectors in many bags that differ by one picture, without a fit for each.

A new picture becomes a neighbour of some rows; everything else about the known rows stays. So only the scores of those
rows and of the rows around them are computed again. They are those of a fit on each bag, those of members in the full
bags to the last bit, the others but for the order of a sum: docs/figures/calibration.md has the time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.preprocessing import normalize

from clip_fewshot.conformal.bags import Bag, Labels
from clip_fewshot.neighbors.exact import KNN, find_nearest_others, squared_distances
from clip_fewshot.novelty.base import Detector
from clip_fewshot.novelty.knn import KNNDetector
from clip_fewshot.novelty.lof import LOFDetector, leave_one_out_scores, n_neighbors_for, scores_without
from clip_fewshot.types import BoolArray, FloatArray, IndexArray

FEWEST = 4  # members: a member has k + 1 others then, also when another one is away
MARKS = 1 << 22  # of who has whom, held at a time (4 MiB)


class Near(NamedTuple):
    """(p,) pairs of a picture and a member near to it, by picture and distance; (m, k + 1) nearest of each picture."""

    pictures: IndexArray
    members: IndexArray
    squared: FloatArray
    own: KNN


class Entered(NamedTuple):
    """(p,) pairs of a picture and a member that has it among its neighbours, and the (p, k + 1) list of the member."""

    pictures: IndexArray
    members: IndexArray
    found: KNN


class NeighbourBags:
    """What is known of a bag before a picture joins it.

    Args:
        bag: the known pictures, more than k + 1.
        limit: the detector's ``n_neighbors``.
    """

    def __init__(self, bag: Bag, limit: int) -> None:
        self.bag, self.limit = bag, limit
        self.rows = normalize(bag.rows)
        self.single = self.rows.astype(np.float32)
        self.neighbours = find_nearest_others(self.rows, min(limit + 1, len(bag) - 1)).neighbours
        self.squared = squared_distances(self.rows, self.neighbours, self.rows)
        self.alone: dict[int, tuple[KNN, FloatArray]] = {}  # k -> the (n, k + 1) lists and the scores of the members

    def n_neighbors(self, labels: Sequence[Hashable | None]) -> dict[Hashable | None, int]:
        """The k of the bag with one more picture, for each class that it may be of."""
        known, n = self.bag.labels, len(self.bag) + 1
        if known is None:
            return dict.fromkeys(labels, self.count_neighbors(n, None))
        # k depends on the sizes of the classes alone, so one class of each size is tried.
        sizes, found = dict(zip(*np.unique(known, return_counts=True), strict=True)), dict[int, int]()
        for label in labels:
            if sizes[label] not in found:
                more = np.append(known, np.array([label], dtype=known.dtype))
                found[sizes[label]] = self.count_neighbors(n, more)
        return {label: found[sizes[label]] for label in labels}

    def count_neighbors(self, n: int, labels: Labels | None) -> int:
        """The detector's k for n distinct rows and their classes."""
        raise NotImplementedError

    def score_members(self, table: KNN) -> FloatArray:
        """(n,) scores of rows without themselves, from the (n, k + 1) nearest others of each."""
        raise NotImplementedError

    def score_picture(self, left_out: IndexArray, has: BoolArray, table: KNN, near: KNN) -> FloatArray:
        """(b,) scores of a picture without each of b rows: see :func:`clip_fewshot.novelty.lof.scores_without`."""
        raise NotImplementedError

    def rescore(self, scores: FloatArray, alone: KNN, own: KNN, entered: Entered) -> None:
        """Change those of (m, n) ``scores`` that a picture changes.

        Args:
            alone: (n, k + 1) lists without any picture. own: (m, k + 1) nearest members of each picture.
        """
        raise NotImplementedError

    def scores(self, X: FloatArray, k: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Leave-one-out scores: (m, n) of the members beside each picture, (m, 1) of the picture, (n,) without one."""
        unit, places = normalize(X), self.bag.places(X)
        if k not in self.alone:
            table = KNN(np.sqrt(self.squared[:, : k + 1]), self.neighbours[:, : k + 1])
            self.alone[k] = table, self.score_members(table)
        alone, members = self.alone[k]
        near = self._near(unit, k)
        scores = np.repeat(members[None], len(X), axis=0)
        self.rescore(scores, alone, near.own, self._enter(near, places, k))
        # Left out of its own bag, the picture is judged by the members alone.
        no_row = np.full(len(X), -1), np.zeros((len(X), len(self.rows)), dtype=bool)
        own = self.score_picture(*no_row, alone, KNN(near.own.distances[:, :k], near.own.neighbours[:, :k]))
        return scores, own[:, None], members

    def scores_without(self, X: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(n,) score of each member under the detector of the others, and (m, n) of each picture under the same."""
        members, pictures = np.empty(len(self.rows)), np.empty((len(X), len(self.rows)))
        alone: dict[int, FloatArray] = {}
        far, order = _first(
            self._squared(X), np.broadcast_to(np.arange(len(self.rows)), pictures.shape), self.limit + 1
        )
        # One row left out may lower k where k depends on the smallest class, so rows are taken by the k they leave.
        for k, left_out in self._left_out_by_k():
            table = KNN(np.sqrt(self.squared[:, : k + 1]), self.neighbours[:, : k + 1])
            if k not in alone:
                alone[k] = self.score_members(table)
            members[left_out] = alone[k][left_out]
            has = _has(table, left_out)
            # One neighbour more than k is known, so that k are left when the row left out is among them.
            for i in range(len(X)):
                near = _drop(KNN(np.sqrt(far[i, : k + 1]), order[i, : k + 1]), left_out)
                pictures[i, left_out] = self.score_picture(left_out, has, table, near)
        return members, pictures

    def _left_out_by_k(self) -> Iterator[tuple[int, IndexArray]]:
        """Each k that occurs when one row is left out, with the rows that leave it, in blocks of limited size."""
        n, labels = len(self.rows), self.bag.labels
        classes = [None] if labels is None else self.bag.classes()
        kinds = np.zeros(n, dtype=np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
        # k depends on the class of the row alone, so one row of each class is tried.
        first = [int(np.argmax(kinds == c)) for c in range(len(classes))]
        k = [self.count_neighbors(n - 1, None if labels is None else np.delete(labels, i)) for i in first]
        per_row = np.array(k)[kinds]
        for one in np.unique(per_row):
            rows = np.flatnonzero(per_row == one)
            yield from ((int(one), part) for part in np.array_split(rows, -(-len(rows) * n // MARKS)))

    def _squared(self, X: FloatArray) -> FloatArray:
        """(m, n) squared distances of pictures to members: it is these that tie or not."""
        everyone = np.broadcast_to(np.arange(len(self.rows)), (len(X), len(self.rows)))
        return squared_distances(self.rows, everyone, normalize(X))

    def _near(self, unit: FloatArray, k: int) -> Near:
        """Which of the members each of (m, d) pictures is near to: one product in float32 for all, differences for few.

        Rounding moves a product of rows of length 1 by less than half of ``slack``, so that no member is overlooked.
        """
        slack = 4 * (unit.shape[1] + 16) * float(np.finfo(np.float32).eps)
        far = 2 - 2 * (unit.astype(np.float32) @ self.single.T)
        last = np.partition(far, k, axis=1)[:, k:][:, :1]
        pictures, members = np.nonzero((far <= self.squared[:, k] + slack) | (far <= last + 2 * slack))
        squared = squared_distances(self.rows, members[:, None], unit[pictures])[:, 0]
        order = np.lexsort((members, squared, pictures))
        pictures, members, squared = pictures[order], members[order], squared[order]
        first = np.searchsorted(pictures, np.arange(len(unit)))[:, None] + np.arange(k + 1)
        return Near(pictures, members, squared, KNN(np.sqrt(squared[first]), members[first]))

    def _enter(self, near: Near, places: IndexArray, k: int) -> Entered:
        """The members that have a picture among their k + 1 nearest, with their new lists, the picture as number n."""
        n, at = len(self.rows), places[near.pictures]
        known, squared = self.neighbours[near.members, : k + 1], self.squared[near.members, : k + 1]
        # Equal distances are in the order of the bag: the picture stands at its place, and members after it move down.
        last = known[:, -1] + (known[:, -1] >= at)
        goes = (near.squared < squared[:, -1]) | ((near.squared == squared[:, -1]) & (at < last))
        known, squared, at = known[goes], squared[goes], at[goes, None]
        numbers = np.concatenate([known + (known >= at), at], axis=1)
        far = np.concatenate([squared, near.squared[goes, None]], axis=1)
        order = np.lexsort((numbers, far), axis=-1)[:, : k + 1]
        lists = np.concatenate([known, np.full_like(at, n)], axis=1)
        found = KNN(np.sqrt(np.take_along_axis(far, order, axis=1)), np.take_along_axis(lists, order, axis=1))
        return Entered(near.pictures[goes], near.members[goes], found)


class LOFBags(NeighbourBags):
    """Those of the local outlier factor."""

    def count_neighbors(self, n: int, labels: Labels | None) -> int:
        """LOF's k for n distinct rows and their classes."""
        return n_neighbors_for(self.limit, n, labels)

    def score_members(self, table: KNN) -> FloatArray:
        """(n,) LOF scores of rows without themselves, from the (n, k + 1) nearest others of each."""
        return leave_one_out_scores(*table)

    def rescore(self, scores: FloatArray, alone: KNN, own: KNN, entered: Entered) -> None:
        """A score depends on the lists of a member, of its neighbours and of theirs: three steps back from a list."""
        n, k = len(self.rows), alone.neighbours.shape[1] - 1
        had = np.argsort(alone.neighbours, axis=None, kind="stable") // (k + 1)  # who has member 0, then member 1, ...
        ends = np.append(0, np.cumsum(np.bincount(alone.neighbours.ravel(), minlength=n)))
        number = np.full(n + 1, -1)  # in the part of the bag that is looked at; its last row stands for all others
        starts = np.searchsorted(entered.pictures, np.arange(len(scores) + 1))
        for i, rows in enumerate(map(slice, starts[:-1], starts[1:])):
            changed = reached = entered.members[rows]
            for _ in range(2):
                reached = np.unique(np.concatenate([had[ends[j] : ends[j + 1]] for j in reached] or [reached]))
                changed = np.union1d(changed, reached)
            if not len(changed):
                continue
            new = entered.found.distances[rows], entered.found.neighbours[rows]
            looked = self._looked_at(changed, entered.members[rows], alone, new[1], own.neighbours[i])
            number[looked] = np.arange(len(looked))
            table = [
                np.concatenate([whole[looked[:-1]], mine[i, None], whole[:1]])
                for whole, mine in zip(alone, own, strict=True)
            ]
            for column, lists in zip(table, new, strict=True):
                column[number[entered.members[rows]]] = lists
            local = KNN(table[0], np.where(table[1] >= 0, number[table[1]], -1))
            left_out = number[changed]
            asked = KNN(local.distances[left_out, :k], local.neighbours[left_out, :k])
            scores[i, changed] = scores_without(left_out, _has(local, left_out), local, asked)
            number[looked] = -1

    @staticmethod
    def _looked_at(
        changed: IndexArray, members: IndexArray, alone: KNN, lists: IndexArray, own: IndexArray
    ) -> IndexArray:
        """The members whose lists the scores of ``changed`` read, and the picture, whose number is the last."""
        n, found = len(alone.neighbours), np.concatenate([changed, members, own])
        for _ in range(2):
            found = np.union1d(found, np.concatenate([alone.neighbours[found].ravel(), lists.ravel()]))
            found = found[found < n]
        return np.append(found, n)

    def score_picture(self, left_out: IndexArray, has: BoolArray, table: KNN, near: KNN) -> FloatArray:
        """(b,) LOF scores of a picture without each of b rows."""
        return scores_without(left_out, has, table, near)


class KNNBags(NeighbourBags):
    """Those of the distance to the nearest; ``mean``: the mean of k, else the k-th."""

    def __init__(self, bag: Bag, limit: int, mean: bool) -> None:
        super().__init__(bag, limit)
        self.mean = mean

    def count_neighbors(self, n: int, labels: Labels | None) -> int:
        """The k of n distinct rows: at most n - 2, and below the size of the smallest class."""
        k = min(self.limit, max(1, n - 2))
        if labels is None:
            return k
        return max(1, min(k, int(np.unique(labels, return_counts=True)[1].min()) - 1))

    def score_members(self, table: KNN) -> FloatArray:
        """(n,) minus the distance of each row to its neighbours, from the (n, k + 1) nearest others of each."""
        return self._normality(table.distances[:, :-1])

    def rescore(self, scores: FloatArray, alone: KNN, own: KNN, entered: Entered) -> None:
        """Only the members that have the picture among their k nearest have another score."""
        scores[entered.pictures, entered.members] = self.score_members(entered.found)

    def score_picture(self, left_out: IndexArray, has: BoolArray, table: KNN, near: KNN) -> FloatArray:
        """(b,) minus the distance of a picture to its neighbours without each of b rows."""
        return self._normality(near.distances)

    def _normality(self, far: FloatArray) -> FloatArray:
        return np.asarray(-(far.mean(axis=1) if self.mean else far[:, -1]))


def find_shortcut(detector: Detector, bag: Bag) -> NeighbourBags | None:
    """The bags of a detector that needs no fit for each; None: fit it, and let it refuse what it cannot do."""
    if type(detector) is LOFDetector and detector.n_neighbors >= 1 and len(bag) >= FEWEST:
        return LOFBags(bag, detector.n_neighbors)
    if (
        type(detector) is KNNDetector
        and detector.n_neighbors >= 1
        and len(bag) >= max(FEWEST, detector.n_neighbors + 2)
    ):
        return KNNBags(bag, detector.n_neighbors, detector.mean)
    return None


def _first(distances: FloatArray, numbers: IndexArray, k: int) -> KNN:
    """The k least along the last axis; equal distances in the order of their numbers."""
    order = np.lexsort((numbers, distances), axis=-1)[..., :k]
    return KNN(np.take_along_axis(distances, order, axis=-1), np.take_along_axis(numbers, order, axis=-1))


def _has(table: KNN, left_out: IndexArray) -> BoolArray:
    """(b, n) whether row j has the i-th of b rows among its k nearest, at [i, j]."""
    # Each entry of the table that names a row left out marks the pair (that row, the owner of the list).
    number = np.full(len(table.neighbours), -1)
    number[left_out] = np.arange(len(left_out))
    which = number[table.neighbours[:, :-1]]
    has, found = np.zeros((len(left_out), len(number)), dtype=bool), which >= 0
    has[which[found], np.nonzero(found)[0]] = True
    return has


def _drop(near: KNN, left_out: IndexArray) -> KNN:
    """(b, k) nearest of a picture, from its (k + 1,), without each of b rows."""
    k = len(near.neighbours) - 1
    # Where the row left out is not among the first k, the (k + 1)-th goes instead.
    stays = near.neighbours != left_out[:, None]
    stays[:, k] &= ~stays[:, :k].all(axis=1)
    which = np.nonzero(stays)[1].reshape(len(left_out), k)
    return KNN(near.distances[which], near.neighbours[which])
