"""Average linkage under cosine distance, cut at the height at which the known classes come out best.

Mean distances do not grow with the size of groups, as Ward's heights do, so the height at which known classes part is
one at which new ones do. What is alone at that height is an outlier, and nothing says how many groups there are.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.hierarchy import fcluster

from clip_fewshot.discovery.average_tree import average_tree
from clip_fewshot.discovery.base import Partition
from clip_fewshot.discovery.known import KnownRows
from clip_fewshot.discovery.parts import drop_known
from clip_fewshot.errors import UsageError
from clip_fewshot.types import FloatArray, LabelArray

CLASSES, MIN_SHOTS = 3, 2  # known, below which there is no height to learn
MOST_KNOWN = 2_000  # known rows looked at
# Groups found in false alarms alone, by 1 and by .8: digits' features 1.3 and .6, wild ones' 1.4 and .2, pixels 2.1 and
# 1.0, photos .5 and .1; with new classes among them the count is as good.
AVERAGE_MARGIN = 0.8


class Average:
    """The method. It does not look at ``most``: the height alone decides."""

    def __init__(self, known: KnownRows | None, most: int, seed: int) -> None:
        if known is None or not can_cut(known):
            got = "none" if known is None else f"{known.n_classes} with {known.fewest} and more"
            want = f"{CLASSES} known classes of {MIN_SHOTS} images or more, to learn the height from"
            raise UsageError(
                expected=want, got=got, fix='pass them as reference, or choose method="ward"', where="discover_classes"
            )
        self.known, self.means = known, known.means()
        fewer = np.arange(len(known.rows))[:: 1 + len(known.rows) // MOST_KNOWN]
        self.cut = best_cut(average_tree(known.rows[fewer]), known.classes[fewer])

    def part(self, rows: FloatArray) -> Partition:
        """See :class:`clip_fewshot.discovery.base.Discoverer`."""
        tree = average_tree(rows)
        parts = fcluster(tree, self.cut, "distance").astype(np.int64)
        return Partition(drop_known(parts, rows, self.means, AVERAGE_MARGIN), tree, self.cut)

    def resample(self, rng: np.random.Generator) -> Average:
        """The height that half of the known classes give. All of them still decide what is not a new class."""
        chosen = rng.permutation(self.known.n_classes)[: max(CLASSES, -(-self.known.n_classes // 2))]
        other = Average(self.known.subset(np.isin(self.known.classes, chosen)), 0, 0)
        other.known, other.means = self.known, self.means
        return other


def can_cut(known: KnownRows) -> bool:
    """Whether there are known classes enough."""
    return known.n_classes >= CLASSES and known.fewest >= MIN_SHOTS


def best_cut(tree: FloatArray, classes: LabelArray) -> float:
    """The height at which cutting the tree of known rows agrees best with their classes, by adjusted Rand index.

    Half way between the merger below and the one above; of several, the lowest; the top's own height where all in
    one is best.
    """
    scores, heights = agreement(tree, classes), tree[:, 2]
    whole = np.append(heights[1:] > heights[:-1], True)  # not in the midst of mergers at one height
    best = int(np.argmax(np.where(whole, scores, -np.inf)))
    return float(heights[best : best + 2].mean())


def agreement(tree: FloatArray, classes: LabelArray) -> FloatArray:
    """(n - 1,) adjusted Rand index of the parts after each merger with the (n,) classes."""
    n = len(classes)
    counts = [*np.eye(int(classes.max()) + 1)[classes]]
    right = joined = 0.0
    pairs, of_class = n * (n - 1) / 2, sum(c * (c - 1) / 2 for c in np.bincount(classes))
    scores = np.empty(n - 1)
    for i, (left, other, *_) in enumerate(tree):
        a, b = counts[int(left)], counts[int(other)]
        right, joined = right + a @ b, joined + a.sum() * b.sum()
        counts.append(a + b)
        chance = joined * of_class / pairs
        spread = (joined + of_class) / 2 - chance
        scores[i] = (right - chance) / spread if spread > 0 else 0.0
    return scores
