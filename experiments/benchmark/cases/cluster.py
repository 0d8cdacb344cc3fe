"""Ward's tree: scikit-learn's on all distances, against ours; and ours where all distances do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster

from clip_fewshot.discovery.ward_tree import ward_tree
from clip_fewshot.evaluation.clustering import ari
from experiments.benchmark.isolation import alone
from experiments.benchmark.options import Options
from experiments.benchmark.row import Check, Row
from experiments.benchmark.synthetic import clip_like
from experiments.benchmark.timing import WHOLE, Side, Watch, interleave

MEMORY = 4.0  # GiB


@dataclass(frozen=True)
class Sizes:
    """How many rows to cluster."""

    classes: int = 100
    per_class: int = 50
    width: int = 512
    large_per_class: int = 500


def rows(options: Options, sizes: Sizes | None = None) -> Iterator[Row]:
    """Both trees at a size where all distances fit, ours alone beyond."""
    sizes = sizes or Sizes()
    X = clip_like(sizes.classes, sizes.per_class, sizes.width, options.seed).unit()
    groups: dict[str, NDArray[np.int64]] = {}

    def naive(watch: Watch) -> None:
        from sklearn.cluster import AgglomerativeClustering

        groups["naive"] = AgglomerativeClustering(n_clusters=sizes.classes, linkage="ward").fit_predict(X)

    def ours(watch: Watch) -> None:
        groups["ours"] = fcluster(ward_tree(X), sizes.classes, "maxclust").astype(np.int64)

    times = interleave({"naive": Side(naive), "ours": Side(ours)}, options.repeats, warm_up=False)
    checks = (
        Check("rows in another group", float(len(X) - agreeing(groups["naive"], groups["ours"])), 0.0),
        Check("1 - ARI", 1 - ari(groups["naive"], groups["ours"]), 0.0),
    )
    note = "Plain way: scikit-learn's AgglomerativeClustering(linkage='ward'), both cut into as many groups as classes."
    what = f"Ward's tree, {len(X):,} x {sizes.width}"
    yield Row(what, "tree", times["ours"][WHOLE], times["naive"][WHOLE], 4, checks, note)
    large = alone(options.n_threads, large_tree, sizes, options.seed)
    what = f"Ward's tree, {sizes.classes * sizes.large_per_class:,} x {sizes.width}, once, in a process of its own"
    yield Row(what, "tree", large.times, checks=(Check("peak memory", large.peak_gib, MEMORY, "GiB"),))


def large_tree(sizes: Sizes, seed: int) -> None:
    """A tree of which scikit-learn would hold all distances: 10 GB of them for 50,000 rows."""
    ward_tree(clip_like(sizes.classes, sizes.large_per_class, sizes.width, seed).unit())


def agreeing(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Rows that two partitions put alike: those of the pairs of groups that are each other's largest share."""
    _, a = np.unique(a, return_inverse=True)
    _, b = np.unique(b, return_inverse=True)
    table = np.zeros((a.max() + 1, b.max() + 1), dtype=np.int64)
    np.add.at(table, (a, b), 1)
    return int(sum(row.max() for row in table if row.max() == table[:, row.argmax()].max()))
