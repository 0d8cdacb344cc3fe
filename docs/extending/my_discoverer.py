"""A method of discovery: complete linkage, cut where the known classes are as wide on average."""

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from clip_fewshot.discovery.base import Partition


class CompleteLinkage:
    def __init__(self, known, most, seed):  # the known classes or None, the most parts, the seed of all draws
        classes = [] if known is None else [known.rows[known.classes == c] for c in range(known.n_classes)]
        widths = [pdist(rows).max() for rows in classes if len(rows) > 1]
        self.height = float(np.mean(widths)) if widths else 1.0

    def part(self, rows):
        tree = linkage(rows, "complete")
        return Partition(fcluster(tree, self.height, "distance").astype(np.int64), tree, self.height)

    def resampled(self, rng):
        return self  # nothing in it is drawn
