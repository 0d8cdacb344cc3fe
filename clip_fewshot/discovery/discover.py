"""Group unknown images into candidate classes. The number of groups is estimated; no label of the images is used.

The default is Ward's tree cut by silhouettes beside the known classes; without known classes it is Ward's tree cut by
the gap statistic. What else was tried, with figures: docs/figures/discovery.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from sklearn.preprocessing import normalize

from clip_fewshot.config.ranges import require_int
from clip_fewshot.data.names import number
from clip_fewshot.discovery.base import Discoverer, Discovery, Partition
from clip_fewshot.discovery.known import KnownRows, as_pair
from clip_fewshot.discovery.parts import find_nearest_to_centre, number_by_size
from clip_fewshot.discovery.semi_supervised import SemiSupervised
from clip_fewshot.discovery.silhouette import Silhouette, can_compare
from clip_fewshot.discovery.stability import Half, draw_halves, find_interval, measure_stability
from clip_fewshot.discovery.ward import Ward
from clip_fewshot.runtime.arrays import as_rows
from clip_fewshot.runtime.parts import check_contract, choose_part
from clip_fewshot.types import FloatArray, LabelArray

DiscovererPart = Callable[[KnownRows | None, int, int], Discoverer]  # a class, or a function that returns its objects

DISCOVERERS: dict[str, type[Discoverer]] = {"silhouette": Silhouette, "ward": Ward, "semi-supervised": SemiSupervised}
HALVED = 24  # median size of groups, below which their halves are too small to be found again
SMALL = 0.75  # of the median size of groups, below which a group has to be stable
LEAST_STABILITY = 0.6  # of a group beside known classes: docs/figures/discovery.md
SURE, CLUTTER = 0.8, 0.4  # median stability, from which a group below the second is no class, whatever its size
SMALLEST = 4  # images in a class


def discover_classes(
    X: FloatArray,
    *,
    reference: tuple[FloatArray, LabelArray] | None = None,
    method: str | DiscovererPart | None = None,
    max_clusters: int = 20,
    min_cluster_size: int | None = None,
    seed: int = 0,
) -> Discovery:
    """Group (n, d) features of unknown images.

    Args:
        X: features, any number n from 0; their length does not matter. Memory grows with n, not with its square.
        reference: (m, d) features of known images by the same encoder, and their (m,) classes.
        method: a key of DISCOVERERS, the name of an entry point, "python:MODULE:NAME", or a class of your own; None:
            "silhouette" with three known classes of two images or more, else "ward".
        max_clusters: most parts that a method cuts into, outliers among them, >= 1; "silhouette" knows no limit.
        min_cluster_size: images a group must have; None: 4, or all if there are fewer.
        seed: of the random clouds, starts and halves.

    Raises:
        UsageError: features that are not finite; an unknown method; known classes missing that the method needs.

    Example:
        >>> import numpy as np
        >>> import clip_fewshot as cf
        >>> noise = np.random.default_rng(0).normal(0, 0.1, size=(60, 8))
        >>> found = cf.discover_classes(np.repeat(np.eye(3, 8), 20, axis=0) + noise)
        >>> found.n_clusters
        3
    """
    require_int(max_clusters, "max_clusters", where="discover_classes")
    known = None if reference is None else KnownRows.from_features(*as_pair(reference))
    X = as_rows(X, "discover_classes", None if known is None else known.rows.shape[1])
    n = len(X)
    usual = "silhouette" if known is not None and can_compare(known) else "ward"
    name, part = find_discoverer(method or usual)
    if n < 2:
        return Discovery(
            np.zeros(n, np.int64), n, np.empty((0, 4)), np.arange(n), (), (), (n, n), (1.0,) * n, None, name
        )
    rule, rows = part(known, max_clusters, seed), normalize(X)
    check_contract("discoverer", name, rule, Discoverer)
    parts = rule.part(rows)
    if min_cluster_size is None:
        min_cluster_size = min(SMALLEST, n)
    require_int(min_cluster_size, "min_cluster_size", where="discover_classes")
    labels, groups = number_by_size(parts.labels, min_cluster_size)
    halves = draw_halves(groups, rows, rule, min_cluster_size, seed)
    (low, high), stability = find_interval(groups, halves), measure_stability(labels, groups, halves)
    if isinstance(rule, Silhouette):
        agreed = count_agreed(labels, stability, halves)
        if agreed < groups and agreed in rule.found:
            labels, groups = number_by_size(rule.found[agreed], min_cluster_size)
            stability = measure_stability(labels, groups, halves)
        labels, stability = drop_unstable(labels, stability)
        groups = len(stability)
    interval = min(low, groups), high
    exemplars = np.array([find_nearest_to_centre(rows, labels == k) for k in range(groups)], dtype=np.int64)
    told = parts.rises, parts.needed, interval, stability, parts.cut, name
    reason = "" if groups else _reason(parts, min_cluster_size)
    return Discovery(labels, groups, parts.tree, exemplars, *told, reason)


def count_agreed(labels: LabelArray, stability: tuple[float, ...], halves: list[Half]) -> int:
    """How many groups the usual half shows, where most groups are not found again though large enough; else all.

    Among many false alarms the silhouette goes on rising with the number of groups: 12 where 4 classes were new, and 5
    in the usual half.
    """
    groups = len(stability)
    if not groups or np.median(stability) >= LEAST_STABILITY or np.median(np.bincount(labels[labels >= 0])) < HALVED:
        return groups
    numbers = [half.number for half in halves]
    return min(groups, int(np.quantile(numbers, 0.5, method="inverted_cdf")))


def drop_unstable(labels: LabelArray, stability: tuple[float, ...]) -> tuple[LabelArray, tuple[float, ...]]:
    """The groups numbered without gaps, less small ones that half of the images do not show again.

    False alarms of one known class are alike, and sometimes more than chance explains: they make a group that the next
    draw of images does not have. Where most groups are not found again, the halves are too small to tell. Asking the
    p-values of a group besides was no better on draws that had not chosen how: docs/figures/discovery.md.
    Where the others are found again, one that hardly is goes whatever its size: clutter lies as far from the known
    classes as new ones do, and has nothing in common but that.
    """
    measured, sizes = np.array(stability), np.bincount(labels[labels >= 0], minlength=len(stability))
    if not len(measured) or np.median(measured) < LEAST_STABILITY:
        return labels, stability
    clutter = (measured < CLUTTER) & (np.median(measured) >= SURE)
    kept = np.flatnonzero(((measured >= LEAST_STABILITY) | (sizes >= SMALL * np.median(sizes))) & ~clutter)
    number = np.full(len(stability) + 1, -1)  # its last is that of images in no group
    number[kept] = np.arange(len(kept))
    return number[labels], tuple(stability[k] for k in kept)


def _reason(parts: Partition, smallest: int) -> str:
    """Why no part is a group."""
    sizes = np.bincount(parts.labels[parts.labels >= 0])
    if sizes.any():
        return (
            f"the largest part has {number(int(sizes.max()), 'image')}; min_cluster_size = {smallest:,} asks for more"
        )
    return parts.reason or "every image is as near to a known class as to others: they look like false alarms"


def find_discoverer(method: str | DiscovererPart) -> tuple[str, DiscovererPart]:
    """(name, class or function) of a method, as :func:`discover_classes` takes it.

    Raises:
        UsageError: no such method.
    """
    members: Mapping[str, DiscovererPart] = DISCOVERERS
    return choose_part("discoverers", method, members)
