"""What a method of discovery is given, what it answers, and what the caller gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clip_fewshot.data.names import number
from clip_fewshot.discovery.known import KnownRows
from clip_fewshot.types import FloatArray, IndexArray, LabelArray


@dataclass(frozen=True)
class Discovery:
    """Groups of unknown images; group 0 is the largest.

    Attributes:
        labels: (n,) group of each image; -1 in none, an outlier or a handful too small to be a class.
        n_clusters: number of groups; 0 and 1 are allowed answers.
        linkage: (n - 1, 4) the tree in SciPy's layout; (0, 4) for fewer than two images.
        exemplars: (n_clusters,) row of the image nearest to the centre of each group.
        rises: what the split into 2, 3, ... groups added to the gap. needed: what it had to add. Ward's method only.
        interval: (low, high) number of groups, 90 %, see :mod:`clip_fewshot.discovery.stability`.
        stability: in [0, 1] per group, how much of it is found again in half of the images.
        cut: height of the tree at which it was cut into parts; None where no height decided.
        method: the key of DISCOVERERS, or the name of a foreign method, that made it.
        reason: why there is no group, and what would change it; empty where there is one.
    """

    labels: LabelArray
    n_clusters: int
    linkage: FloatArray
    exemplars: IndexArray
    rises: tuple[float, ...] = ()
    needed: tuple[float, ...] = ()
    interval: tuple[int, int] = (0, 0)
    stability: tuple[float, ...] = ()
    cut: float | None = None
    method: str = "ward"
    reason: str = ""

    def __repr__(self) -> str:
        alone = f"{(self.labels < 0).sum():,} of {number(len(self.labels), 'image')} in none"
        found = f"{number(self.n_clusters, 'group')} (90 % {list(self.interval)}), {alone}, by {self.method}"
        return f"Discovery({found}{f'; {self.reason}' if self.reason else ''})"


@dataclass(frozen=True)
class Partition:
    """What a method makes of n images before small parts are dropped.

    Attributes:
        labels: (n,) part of each image, any numbers; -1 for images of known classes.
        tree: (n - 1, 4) in SciPy's layout. cut, rises, needed: as of :class:`Discovery`.
        reason: why all are -1, if they are and the method can tell.
    """

    labels: LabelArray
    tree: FloatArray
    cut: float | None = None
    rises: tuple[float, ...] = ()
    needed: tuple[float, ...] = ()
    reason: str = ""


class Discoverer(Protocol):
    """A rule that parts unknown images, made once for given known classes.

    Checked by :func:`clip_fewshot.testing.check_discoverer`.

    Args:
        known: the known classes, or None.
        most: parts at the most.
        seed: of its draws.

    Example:
        >>> import numpy as np
        >>> import clip_fewshot as cf
        >>> method: cf.Discoverer = cf.DISCOVERERS["ward"](None, 20, 0)
        >>> rows = np.repeat(np.eye(2), 5, axis=0)
        >>> len(set(method.part(rows).labels))
        2
    """

    def __init__(self, known: KnownRows | None, most: int, seed: int) -> None: ...

    def part(self, rows: FloatArray) -> Partition:
        """Parts of (n, d) rows of unit length, n >= 2."""
        ...

    def resample(self, rng: np.random.Generator) -> Discoverer:
        """The rule as other known classes of the same kind might have made it."""
        ...
