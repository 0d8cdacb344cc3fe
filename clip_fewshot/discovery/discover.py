"""Group unknown images into candidate classes. The number of groups is estimated; no label of theirs can be given.

Average linkage, cut where known classes come out best, is the default; without known classes, Ward's method. Mean
error of the count / share within one of the truth / share of 90 % intervals that hold it, 40 draws each of 1 to 8 new
classes, 8 to 120 images in each, 5 to 15 % false alarms, 16 shots of each known class:

| data | average | Ward |
|---|---|---|
| digits, features of mini | .30 / .97 / .97 | .25 / .97 / .97 |
| digits in the wild, the same | .93 / .78 / .95 | .70 / .80 / .72 |
| digits, pixels | 1.18 / .68 / .88 | 1.40 / .70 / .57 |
| photos, ImageNet features | .17 / 1.00 / .97 | .68 / .90 / .70 |
| three simulations | .54 / .92 / .82 | .46 / .93 / .77 |
| all | .60 / .89 / .89 | .63 / .88 / .75 |

In all the two are equal on the count. Average is the default because its interval says what it should, because Ward's
errs on photos, and because it needs two shots where Ward needs five.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from sklearn.preprocessing import normalize

from clip_fewshot.discovery.average import Average, can_cut
from clip_fewshot.discovery.base import Discoverer, Discovery
from clip_fewshot.discovery.known import Known
from clip_fewshot.discovery.parts import by_size, nearest_to_centre
from clip_fewshot.discovery.semi_supervised import SemiSupervised
from clip_fewshot.discovery.stability import judged
from clip_fewshot.discovery.ward import Ward
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.parts import check_contract, chosen_part
from clip_fewshot.types import FloatArray, LabelArray

DiscovererPart = Callable[[Known | None, int, int], Discoverer]  # a class, or a function that returns its objects

DISCOVERERS: dict[str, type[Discoverer]] = {"ward": Ward, "average": Average, "semi-supervised": SemiSupervised}
SMALLEST = 4  # images in a class
SMALLEST_SHARE = 0.05  # or this share of all, if more: a handful of false alarms of one known class is not a class


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
        X: features, any number n from 0; their length does not matter. Memory grows with n: 50,000 x 512 in float32
            peaked at 1.5 GB (the process had .7 before) after 10 CPU seconds by average, 18 by Ward, interval and all.
        reference: (m, d) features of known images by the same encoder, and their (m,) classes.
        method: a key of DISCOVERERS, the name of an entry point, "python:MODULE:NAME", or a class of your own; None:
            "average" with three known classes of two images or more, else "ward".
        max_clusters: most parts that a method cuts into, outliers among them, >= 1; "average" knows no limit.
        min_cluster_size: images a group must have; None: 4, or 5 % of n if that is more, or all if there are fewer.
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
    n = len(X)
    known = None if reference is None else Known.of(*reference)
    usual = "average" if known is not None and can_cut(known) else "ward"
    members: Mapping[str, DiscovererPart] = DISCOVERERS
    name, part = chosen_part("discoverers", method or usual, members)
    _check(X, max_clusters)
    if n < 2:
        return Discovery(
            np.zeros(n, np.int64), n, np.empty((0, 4)), np.arange(n), (), (), (n, n), (1.0,) * n, None, name
        )
    rule, rows = part(known, max_clusters, seed), normalize(X)
    check_contract("discoverer", name, rule, Discoverer)
    parts = rule.part(rows)
    if min_cluster_size is None:
        min_cluster_size = max(min(SMALLEST, n), int(np.ceil(SMALLEST_SHARE * n)))
    labels, groups = by_size(parts.labels, min_cluster_size)
    interval, stability = judged(labels, groups, rows, rule, min_cluster_size, seed)
    exemplars = np.array([nearest_to_centre(rows, labels == k) for k in range(groups)], dtype=np.int64)
    told = parts.rises, parts.needed, interval, stability, parts.cut, name
    return Discovery(labels, groups, parts.tree, exemplars, *told)


def _check(X: FloatArray, max_clusters: int) -> None:
    if max_clusters < 1:
        raise UsageError(
            expected="max_clusters >= 1", got=str(max_clusters), fix="allow one group or more", where="discover_classes"
        )
    if not np.isfinite(X).all():
        row = int(np.argmin(np.isfinite(X).all(axis=1)))
        raise UsageError(
            expected="finite features",
            got=f"NaN or infinity in row {row}",
            fix="drop that image",
            where="discover_classes",
        )
