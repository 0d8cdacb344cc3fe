"""Ward's tree of any number of rows, exact, in memory that grows with the rows and not with their pairs.

Ward, "Hierarchical grouping to optimize an objective function", 1963. Ward's distance is reducible (Bruynooghe, 1977):
a merger is never nearer to a third group than the nearer of its parents was. Two things follow. Groups that are each
other's nearest are merged whatever happens elsewhere, so all such pairs are merged at once, in rounds. And the list of
near groups that the neighbour pass gives each row stays valid: what is not on it is at least as far as its bound, now
and after any merger. A group is searched for again only when its nearest on the list lies beyond the bound.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from clip_fewshot.neighbors.candidates import find_candidates
from clip_fewshot.neighbors.exact import KNN, drop_rows, find_nearest_others
from clip_fewshot.runtime.arrays import as_rows
from clip_fewshot.types import FloatArray, IndexArray

DENSE_WARD_ROWS = 2_000  # up to here SciPy's tree of all pairs takes no longer
NEIGHBOURS_KEPT = 16  # groups on a list
MIN_MERGED_SHARE = 0.05  # pairs to merge, per group to be searched for; below this share the search is done first
WARD_BLOCK = 1 << 17  # numbers held at a time where distances are taken


def ward_tree(X: FloatArray) -> FloatArray:
    """Ward's tree of (n, d) rows, float32 or float64: (n - 1, 4) in SciPy's layout, (0, 4) for fewer than two rows.

    The same merges as ``scipy.cluster.hierarchy.linkage(X, "ward")``, heights equal to 1e-9 relatively (seen: 1e-14);
    where several pairs are equally near, any of the trees they allow. Memory beyond ``X``: 24 n d + 1,000 n bytes and
    40 MB at most, because pairs of rows are never held; time n^2 d: 50,000 x 512 takes 50 CPU seconds. We rejected
    SciPy's linkage and fastcluster's ``linkage_vector``: docs/figures/ward_tree.md has the figures.

    Raises:
        UsageError: another shape, or a value that is not finite.
    """
    X = as_rows(X, "ward_tree")
    if len(X) < 2:
        return np.empty((0, 4))
    if len(X) <= DENSE_WARD_ROWS:
        return np.asarray(linkage(pdist(X), "ward"))  # of X itself it warns where X is square and zero
    found = find_nearest_others(X, NEIGHBOURS_KEPT)
    kept, copies, originals = _copies(X, found)
    made: list[Mergers] = [(originals, copies, np.zeros(len(copies)))]
    if len(kept) > 1:
        sizes = np.bincount(originals, minlength=len(X))[kept] + 1.0
        found = drop_rows(found, X, kept, min(NEIGHBOURS_KEPT, len(kept) - 1))
        groups = _Groups(X[kept] - X.mean(axis=0, dtype=np.float64), sizes, found)
        made += [(kept[stays], kept[goes], heights) for stays, goes, heights in groups.mergers()]
    return arrange_for_scipy(len(X), made)


Mergers = tuple[IndexArray, IndexArray, FloatArray]  # (p,) groups that stay, those that go into them, heights


def _copies(X: FloatArray, found: KNN) -> tuple[IndexArray, IndexArray, IndexArray]:
    """Rows that are no copy of an earlier one, those that are, and the earlier one of each of these."""
    twins = np.flatnonzero(found.distances[:, 0] == 0)
    if not len(twins):
        return np.arange(len(X)), twins, twins
    _, first, kind = np.unique(X[twins] + 0.0, axis=0, return_index=True, return_inverse=True)  # + 0.0: -0 is 0
    original = twins[first[kind.ravel()]]
    later = original != twins
    return np.delete(np.arange(len(X)), twins[later]), twins[later], original[later]


def arrange_for_scipy(n: int, mergers: list[Mergers]) -> FloatArray:
    """(n - 1, 4) SciPy's table of mergers of rows, by height; of one height, in the order in which they were made."""
    stays, goes, heights = (np.concatenate(part) for part in zip(*mergers, strict=True))
    name, size, tree = list(range(n)), [1] * n, np.empty((n - 1, 4))
    for row, at in enumerate(np.argsort(heights, kind="stable")):
        a, b = int(stays[at]), int(goes[at])
        size[a] += size[b]
        tree[row] = min(name[a], name[b]), max(name[a], name[b]), heights[at], size[a]
        name[a] = n + row
    return tree


class _Groups:
    """Groups of rows, each with its centre, its size, its near groups and a bound on all others.

    ``near`` holds (m, l) numbers of groups and ``squared`` their squared Ward's distances; a place that is empty has an
    infinite distance. No group off the list of i is nearer than ``bound[i]``, squared.
    """

    def __init__(self, centres: FloatArray, sizes: FloatArray, found: KNN) -> None:
        self.centres, self.sizes, self.near = centres, sizes, found.neighbours.copy()
        self.height = np.zeros(len(centres))  # squared, of each group's last merger
        self.alive = np.arange(len(centres))
        self.squared = found.distances**2 * _weight(sizes[:, None], sizes[self.near])
        self.bound = found.distances[:, -1] ** 2  # Ward's distance is never below the centres'

    def mergers(self) -> list[Mergers]:
        """All mergers down to one group, in rounds."""
        made = []
        while len(self.alive) > 1:
            stays, goes, unknown = self._pairs()
            if len(unknown) and len(stays) <= MIN_MERGED_SHARE * len(unknown):
                self._search(unknown)
            else:
                made.append(self._merge(stays, goes))
        return made

    def _pairs(self) -> tuple[IndexArray, IndexArray, IndexArray]:
        """Groups that are each other's nearest, the lower number first, and groups whose nearest is not known."""
        # The nearest on each list. It is the nearest of all groups if it is not beyond the list's bound.
        column = self.squared[self.alive].argmin(axis=1)
        distance, neighbour = self.squared[self.alive, column], self.near[self.alive, column]
        known = distance <= self.bound[self.alive]
        nearest = np.full(len(self.centres), -1)
        nearest[self.alive[known]] = neighbour[known]
        # A pair is merged when each is the other's nearest; the lower number asks, so that it comes once.
        asked, offered = self.alive[known], neighbour[known]
        mutual = (nearest[offered] == asked) & (asked < offered)
        if known.all() and not mutual.any():  # a ring of equal distances: any pair at the least of all will do
            least = int(distance.argmin())
            pair = sorted((int(self.alive[least]), int(neighbour[least])))
            return np.array(pair[:1]), np.array(pair[1:]), self.alive[~known]
        return asked[mutual], offered[mutual], self.alive[~known]

    def _search(self, asked: IndexArray) -> None:
        """New lists out of all groups. What float32 cannot separate is searched in float64, then by all differences."""
        place = np.empty(len(self.centres), dtype=np.int64)
        place[self.alive] = np.arange(len(self.alive))
        others, sizes = self.centres[self.alive], self.sizes[self.alive]
        k = min(self.near.shape[1], len(self.alive) - 1)
        # Only groups whose new list does not reach below its own bound go on to the next precision.
        for precision in (np.float32, np.float64):
            weights = sizes, self.sizes[asked]
            found = find_candidates(
                others, self.centres[asked], k, own=place[asked], sizes=weights, precision=precision
            )
            self._list(asked, self.alive[found.rows])
            self.bound[asked] = found.bounds[:, -1] if k < len(self.alive) - 1 else np.inf
            asked = asked[self.squared[asked].min(axis=1) > self.bound[asked]]
            if not len(asked):
                return
        for group in asked:
            self._search_in_full(group, k)

    def _search_in_full(self, group: int, k: int) -> None:
        """One new list from the differences themselves: for more near-copies (within 1e-7) than a list holds."""
        others = self.alive[self.alive != group]
        squared = self._between(np.full(len(others), group), others)
        order = np.argsort(squared, kind="stable")[:k]
        self.near[group, :k], self.squared[group, :k] = others[order], squared[order]
        self.bound[group] = squared[order[-1]]

    def _list(self, groups: IndexArray, near: IndexArray) -> None:
        """Put the (m, k) groups ``near`` on the lists of ``groups``, and nothing else."""
        self.near[groups], self.squared[groups] = groups[:, None], np.inf
        count = near.shape[1]
        self.near[groups, :count] = near
        self.squared[groups, :count] = self._between(np.repeat(groups, count), near.ravel()).reshape(near.shape)

    def _between(self, a: IndexArray, b: IndexArray) -> FloatArray:
        """(p,) squared Ward's distances of pairs of groups."""
        squared, size = np.empty(len(a)), max(1, WARD_BLOCK // self.centres.shape[1])
        for start in range(0, len(a), size):
            block = slice(start, start + size)
            differences = self.centres[a[block]] - self.centres[b[block]]
            squared[block] = np.einsum("pd,pd->p", differences, differences)
        return squared * _weight(self.sizes[a], self.sizes[b])

    def _merge(self, stays: IndexArray, goes: IndexArray) -> Mergers:
        """Merge pairs that are each other's nearest."""
        squared = self.squared[stays].min(axis=1)
        height = np.maximum(squared, np.maximum(self.height[stays], self.height[goes]))  # rounding must not turn them
        # The bound reads sizes and bounds of both parents, so it comes before they change.
        bound = self._bound_of_mergers(stays, goes, squared)
        a, b = self.sizes[stays], self.sizes[goes]
        self.centres[stays] += (b / (a + b))[:, None] * (self.centres[goes] - self.centres[stays])
        self.sizes[stays], self.height[stays] = a + b, height
        into = np.arange(len(self.centres))
        into[goes] = stays
        self.alive = self.alive[into[self.alive] == self.alive]
        self._join_lists(stays, goes, into, bound)
        self._follow(stays, into)
        return stays, goes, np.sqrt(height)

    def _bound_of_mergers(self, a: IndexArray, b: IndexArray, squared: FloatArray) -> FloatArray:
        """(p,) lower bound of the squared distance from the merger of a and b to groups on neither list.

        By the formula of Lance and Williams, "A general theory of classificatory sorting strategies", 1967, which is
        monotone in the size of the third group: the bound is the lesser of those for one point and for infinitely many.
        """
        p, q, bound_p, bound_q = self.sizes[a], self.sizes[b], self.bound[a], self.bound[b]
        one = ((p + 1) * bound_p + (q + 1) * bound_q - squared) / (p + q + 1)
        return np.minimum(one, bound_p + bound_q - squared)

    def _join_lists(self, stays: IndexArray, goes: IndexArray, into: IndexArray, bound: FloatArray) -> None:
        """A merger's list is the best of both parents'; what does not fit on it lowers its bound."""
        # Both parents' lists side by side, each entry renamed to the group it is in now; empty places name their owner.
        both = np.concatenate([stays, goes])
        listed = np.where(np.isinf(self.squared[both]), both[:, None], self.near[both])
        joint = np.sort(into[np.concatenate(np.split(listed, 2), axis=1)], axis=1)
        # An entry counts once, and the merger itself does not count.
        wanted = joint != stays[:, None]
        wanted[:, 1:] &= joint[:, 1:] != joint[:, :-1]
        squared = np.full(joint.shape, np.inf)
        row, column = np.nonzero(wanted)
        squared[row, column] = self._between(stays[row], joint[row, column])
        # The nearest stay on the list. The first that does not fit bounds all that are off the list.
        order, length = np.argsort(squared, axis=1), self.near.shape[1]
        squared, joint = np.take_along_axis(squared, order, axis=1), np.take_along_axis(joint, order, axis=1)
        self.near[stays], self.squared[stays] = joint[:, :length], squared[:, :length]
        self.bound[stays] = np.minimum(bound, squared[:, length])

    def _follow(self, merged: IndexArray, into: IndexArray) -> None:
        """Put mergers in the place of their parents on the lists of all other groups, once on each."""
        is_merged = np.zeros(len(self.centres), dtype=bool)
        is_merged[merged] = True
        others = self.alive[~is_merged[self.alive]]
        near, filled = self.near[others], np.isfinite(self.squared[others])
        # Entries that name a parent of a merger.
        row, column = np.nonzero(is_merged[into[near]] & filled)
        parent, merger = near[row, column], into[near[row, column]]
        # Both parents stood on the list: the entry of the one that is gone is emptied.
        twice = (parent != merger) & ((near[row] == merger[:, None]) & filled[row]).any(axis=1)
        self.squared[others[row[twice]], column[twice]] = np.inf
        # The other entries name the merger now, at its own distance.
        row, column, merger = row[~twice], column[~twice], merger[~twice]
        self.near[others[row], column] = merger
        self.squared[others[row], column] = self._between(others[row], merger)


def _weight(a: FloatArray, b: FloatArray) -> FloatArray:
    """Ward's squared distance over that of the centres of groups of a and b points."""
    return np.asarray(2 * a * b / (a + b))
