"""Known pictures as a bag: each once, in an order that depends on the pictures alone.

Full conformal prediction is exact because the scores of the bag do not depend on the order of its members. No detector
promises that to the last bit: equal distances are ordered by row number, sums are rounded in row order, and of
near-copies the first one stays. Here the order itself is a function of the bag, so that all of this is too, whatever
the detector.

A picture that is there twice counts once, and a picture that is a copy of a known one is not new: its p-value is 1.
That is valid whether the copies are an accident of the collection or of the world. Where they are an accident, the
distinct pictures are the exchangeable ones. Where new pictures come with copies as well, a picture without a copy is
flagged when it is among the alpha D strangest of D distinct members, and no other is: at most alpha D of the n + 1.
We rejected counting each copy: nineteen pictures and a hundred copies of an ordinary one give the strangest of twenty
p = 1/120, where it is 1/20.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import normalize

from clip_fewshot.errors import UsageError
from clip_fewshot.neighbors.exact import SAME, find_distinct, find_nearest, squared_distances
from clip_fewshot.runtime.arrays import as_labels, as_rows
from clip_fewshot.types import BoolArray, FloatArray, IndexArray

Labels = NDArray[Any]
SUSPECTS = 64  # known pictures, on average, that share a feature with a new one and are looked at one by one
ALONE = 256  # known pictures up to which each is left out by itself


class Bag(NamedTuple):
    """Known pictures without their copies, sorted by the bytes of their rows, then by label.

    Attributes:
        rows: (n, d) float64. labels: (n,), or None.
        keys: (n,) what they are sorted by.
        everything: (N, d) the rows of unit length, copies among them.
    """

    rows: FloatArray
    labels: Labels | None
    keys: list[bytes]
    everything: FloatArray

    @classmethod
    def from_features(cls, X: FloatArray, y: Labels | None) -> Bag:
        """Of (N, d) features and their (N,) classes.

        Raises:
            UsageError: no row, a number that is not finite, or another number of labels than of rows.
        """
        rows = check_features(X)
        if not len(rows):
            raise UsageError(expected="known images, one or more", got="none", fix="bring images", where="calibration")
        labels = None if y is None else as_labels(y, "calibration")
        if labels is not None and labels.shape != (len(rows),):
            raise UsageError(
                expected=f"{len(rows):,} labels",
                got=f"shape {labels.shape}",
                fix="bring one for each row",
                where="calibration",
            )
        classes = np.zeros(len(rows)) if labels is None else np.unique(labels, return_inverse=True)[1]
        keys = [row.tobytes() for row in rows]
        order = np.array(sorted(range(len(rows)), key=lambda i: (keys[i], classes[i])))
        unit = normalize(rows[order])
        kept = order[find_distinct(unit)]
        return cls(rows[kept], None if labels is None else labels[kept], [keys[i] for i in kept], unit)

    def __len__(self) -> int:
        return len(self.keys)

    def classes(self) -> list[Hashable]:
        """The class names, sorted."""
        return [] if self.labels is None else [one.item() for one in np.unique(self.labels)]

    def count(self, label: Hashable) -> int:
        """Pictures of a class."""
        return 0 if self.labels is None else int(np.sum(self.labels == label))

    def places(self, X: FloatArray) -> IndexArray:
        """(m,) how many members stand before each of (m, d) pictures."""
        return np.array([bisect_left(self.keys, row.tobytes()) for row in X], dtype=np.int64)

    def has_copy(self, X: FloatArray) -> BoolArray:
        """(m,) which of (m, d) pictures are known already: rows that are the same are so in every feature."""
        rows, known = normalize(X), self.everything
        feature = int(np.argmax(np.ptp(known, axis=0)))
        order = np.argsort(known[:, feature])
        values, asked, room = known[order, feature], rows[:, feature], 2 * SAME  # 2: for rounding
        first, last = np.searchsorted(values, asked - room), np.searchsorted(values, asked + room)
        if (last - first).sum() > SUSPECTS * len(rows):
            return np.asarray(find_nearest(known, rows, 1).distances[:, 0] <= SAME)
        which = np.repeat(np.arange(len(rows)), last - first)
        place = np.arange(len(which)) + np.repeat(last - np.cumsum(last - first), last - first)
        is_copy = np.zeros(len(rows), dtype=bool)
        is_copy[which[squared_distances(known, order[place][:, None], rows[which])[:, 0] <= SAME**2]] = True
        return is_copy


class Comparison(NamedTuple):
    """What m new pictures are compared with.

    Attributes:
        members: (m, n) scores of n calibration pictures beside each new one. own: (m, n) or (m, 1) of the new ones.
        alone: (n,) of the calibration pictures beside none; None where it takes a fit.
    """

    members: FloatArray
    own: FloatArray
    alone: FloatArray | None = None


def check_features(X: FloatArray, width: int | None = None) -> FloatArray:
    """(n, d) float64, all finite, without negative zeros, in memory of its own.

    Raises:
        UsageError: another shape, another d than ``width``, or numbers that are not finite.
    """
    return np.ascontiguousarray(as_rows(X, "calibration", width).astype(np.float64) + 0.0)
