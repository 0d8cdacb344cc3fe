"""Leave-one-out scores of neighbour detectors in many bags that differ by one picture, without a fit for each.

A new picture becomes a neighbour of some rows; everything else about the known rows stays. The scores are those of a
fit on each bag, in the full bags to the last bit, in 1/15 to 1/80 of the time: docs/figures/calibration.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np
from sklearn.preprocessing import normalize

from clip_fewshot.conformal.bags import Bag, Labels
from clip_fewshot.neighbors.exact import KNN, find_nearest_others, squared_distances
from clip_fewshot.novelty.base import Detector
from clip_fewshot.novelty.knn import KNNDetector
from clip_fewshot.novelty.lof import LOFDetector, leave_one_out_scores, n_neighbors_for, scores_without
from clip_fewshot.types import BoolArray, FloatArray, IndexArray

STACKED = 2048  # rows of bags that are scored in one go
MARKS = 1 << 22  # of who has whom, held at a time (4 MiB)


class NeighbourBags:
    """What is known of a bag before a picture joins it.

    Args:
        bag: the known pictures, two or more; four for :meth:`scores_without`.
        limit: the detector's ``n_neighbors``.
    """

    def __init__(self, bag: Bag, limit: int) -> None:
        self.bag, self.limit = bag, limit
        self.rows = normalize(bag.rows)
        self.neighbours = find_nearest_others(self.rows, min(limit + 1, len(bag) - 1)).neighbours
        self.squared = squared_distances(self.rows, self.neighbours, self.rows)

    def n_neighbors(self, label: Hashable | None) -> int:
        """The k of the bag with one more picture, of class ``label`` if there are classes."""
        labels = self.bag.labels
        if labels is not None:
            labels = np.append(labels, np.array([label], dtype=labels.dtype))
        return self.count_neighbors(len(self.bag) + 1, labels)

    def count_neighbors(self, n: int, labels: Labels | None) -> int:
        """The detector's k for n distinct rows and their classes."""
        raise NotImplementedError

    def score_members(self, table: KNN) -> FloatArray:
        """(n,) scores of rows without themselves, from the (n, k + 1) nearest others of each."""
        raise NotImplementedError

    def score_picture(self, left_out: IndexArray, has: BoolArray, table: KNN, near: KNN) -> FloatArray:
        """(b,) scores of a picture without each of b rows: see :func:`clip_fewshot.novelty.lof.scores_without`."""
        raise NotImplementedError

    def scores(self, X: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
        """(m, n) leave-one-out scores of the members in the bag with each picture, and (m,) of the picture itself."""
        # The bags of several pictures are scored at a time: n + 1 rows each, one bag below the other.
        n, places = len(self.rows), self.bag.places(X)
        far, scores = self._squared(X), np.empty((len(X), n + 1))
        size = max(1, STACKED // (n + 1))
        for start in range(0, len(X), size):
            block = slice(start, start + size)
            table = self._with(far[block], places[block], k)
            scores[block] = self.score_members(table).reshape(-1, n + 1)
        # In each bag the picture stands at its place in the bag's order; members from there on moved down by one.
        members = np.arange(n) + (np.arange(n) >= places[:, None])
        return np.take_along_axis(scores, members, axis=1), scores[np.arange(len(X)), places]

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

    def _with(self, far: FloatArray, places: IndexArray, k: int) -> KNN:
        """(m (n + 1), k + 1) nearest others of each row of m bags that stand below each other."""
        m, n = far.shape
        at = places[:, None]
        # Numbers in the bag: the picture stands at its place, and members from there on move down by one.
        numbers = np.arange(n) + (np.arange(n) >= at)  # (m, n)
        own = np.broadcast_to(at[:, :, None], (m, n, 1))
        known = self.neighbours[:, : k + 1]
        # Each member's neighbours are those it had, and the picture as one more to choose from.
        squared = np.concatenate([np.broadcast_to(self.squared[:, : k + 1], (m, *known.shape)), far[..., None]], 2)
        neighbours = np.concatenate([known + (known >= at[:, None]), own], axis=2)
        table = KNN(np.empty((m, n + 1, k + 1)), np.empty((m, n + 1, k + 1), dtype=np.int64))
        # Members choose among k + 2, the picture among all members.
        for rows, part in ((numbers, _first(squared, neighbours, k + 1)), (at, _first(far, numbers, k + 1))):
            for whole, values in zip(table, part, strict=True):
                np.put_along_axis(whole, rows[..., None], values.reshape(*rows.shape, k + 1), axis=1)
        # Row numbers of bag i start at i (n + 1).
        below = (np.arange(m) * (n + 1))[:, None, None]
        return KNN(np.sqrt(table.distances).reshape(-1, k + 1), (table.neighbours + below).reshape(-1, k + 1))


class LOFBags(NeighbourBags):
    """Those of the local outlier factor."""

    def count_neighbors(self, n: int, labels: Labels | None) -> int:
        """LOF's k for n distinct rows and their classes."""
        return n_neighbors_for(self.limit, n, labels)

    def score_members(self, table: KNN) -> FloatArray:
        """(n,) LOF scores of rows without themselves, from the (n, k + 1) nearest others of each."""
        return leave_one_out_scores(*table)

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

    def score_picture(self, left_out: IndexArray, has: BoolArray, table: KNN, near: KNN) -> FloatArray:
        """(b,) minus the distance of a picture to its neighbours without each of b rows."""
        return self._normality(near.distances)

    def _normality(self, far: FloatArray) -> FloatArray:
        return np.asarray(-(far.mean(axis=1) if self.mean else far[:, -1]))


def find_shortcut(detector: Detector, bag: Bag, fewest: int) -> NeighbourBags | None:
    """The bags of a detector that needs no fit for each; None: fit it, and let it refuse what it cannot do."""
    if len(bag) < fewest:
        return None
    if type(detector) is LOFDetector and detector.n_neighbors >= 1:
        return LOFBags(bag, detector.n_neighbors)
    if type(detector) is KNNDetector and detector.n_neighbors >= 1:
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
