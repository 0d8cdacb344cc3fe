"""Ward's tree, cut where further splits stop being worth it.

A split counts by how much it raises the gap statistic. The known classes say how much is enough: the k-th split needs
1.5 standard errors and half of the rise that the k-th known class brings. The number of groups is the one at which the
sum of rises is furthest above the sum of needs. The known classes also show which directions vary within a class;
those are scaled down first, as in linear discriminant analysis.

We rejected the silhouette, because it cannot answer "one class", and three other rules: docs/figures/discovery.md.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster

from clip_fewshot.discovery.base import Partition
from clip_fewshot.discovery.gap import gap_rises, project_on_axes, select_group_count
from clip_fewshot.discovery.known import KnownRows
from clip_fewshot.discovery.parts import drop_known
from clip_fewshot.discovery.ward_tree import ward_tree
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray

SHARE = 0.5  # of a known class's rise of the gap, that a new class has to reach
ENOUGH = 0.06  # a rise that is enough whatever the known classes say, and is asked for where there are none
ERRORS = 1.5  # standard errors that a rise has to exceed besides
EPISODES = 6  # draws of known classes per number of them
WARD_MARGIN = 0.95  # to its own centre a new class has to be, see without_known; below, the count of new ones suffers
SHOTS_TO_CALIBRATE = 5  # images per known class below which their gap curve says nothing


class Ward:
    """Ward's tree, cut by the gap statistic; without known classes less well. Time grows with n^2, memory with n."""

    def __init__(self, known: KnownRows | None, most: int, seed: int) -> None:
        self.known, self.most, self.seed = known, most, seed
        self.scaling = None if known is None else known.scaling()
        self.episodes = _episodes(known, seed)

    def part(self, rows: FloatArray) -> Partition:
        """See :class:`clip_fewshot.discovery.base.Discoverer`."""
        scaled = rows if self.scaling is None else rows @ self.scaling
        points = project_on_axes(scaled)
        tree = ward_tree(points)
        rises, errors = gap_rises(points, self.most, self.seed)
        needed = np.maximum(ERRORS * errors, self._worth(len(rises)))
        parts = fcluster(tree, select_group_count(rises, needed), "maxclust").astype(np.int64)
        if self.known is not None and self.scaling is not None:
            parts = drop_known(parts, scaled, self.known.means() @ self.scaling, WARD_MARGIN)
        return Partition(parts, tree, rises=tuple(rises.tolist()), needed=tuple(needed.tolist()))

    def resample(self, rng: np.random.Generator) -> Ward:
        """Other draws of the same known classes. The scaling stays, because it needs all of them."""
        other = object.__new__(Ward)
        other.known, other.most, other.scaling = self.known, self.most, self.scaling
        other.seed = int(rng.integers(2**31))
        other.episodes = rng.choice(self.episodes, EPISODES, axis=0)
        return other

    def _worth(self, length: int) -> FloatArray:
        """(length,) the rise that the split into 2, 3, ... groups has to bring."""
        worth = np.minimum(SHARE * self.episodes.mean(axis=0), ENOUGH)
        return np.append(worth, np.full(length, worth[-1]))[:length]


def _episodes(known: KnownRows | None, seed: int) -> FloatArray:
    """(EPISODES, k) what the 2nd, 3rd, ... known class adds to the gap; beyond ENOUGH where they cannot say.

    The scaling comes from the classes left out each time: their own would draw them together too well.
    """
    if known is None or known.n_classes < 3 or len(known.rows) < SHOTS_TO_CALIBRATE * known.n_classes:
        return np.full((EPISODES, 1), np.inf)
    rng = generator(seed, "known classes")
    counts = range(2, max(2, known.n_classes - 2) + 1)
    return np.array([[_last_rise(known, rng, count, seed) for _ in range(EPISODES)] for count in counts]).T


def _last_rise(known: KnownRows, rng: np.random.Generator, count: int, seed: int) -> float:
    chosen = np.isin(known.classes, rng.permutation(known.n_classes)[:count])
    points = project_on_axes(known.rows[chosen] @ known.subset(~chosen).scaling())
    rises = gap_rises(points, count, seed)[0]
    return float(rises[count - 2]) if len(rises) else 0.0  # pictures without a difference: no split gains anything
