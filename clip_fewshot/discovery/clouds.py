"""Classes and groups as clouds of points, and what known classes say of new ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from clip_fewshot.types import FloatArray, IndexArray, LabelArray

CLEAR = 5  # times their spread, beyond which classes are apart whatever their nearest are


class Clouds(NamedTuple):
    """Classes or groups: (k,) sizes, (k, d) means, and (k,) mean squared distances of members from the true mean."""

    sizes: IndexArray
    means: FloatArray
    spread: FloatArray

    @classmethod
    def from_labels(cls, points: FloatArray, labels: LabelArray) -> Clouds:
        """Of (n, d) points and their (n,) numbers 0, 1, ... without gaps; -1 in none."""
        rows = np.flatnonzero(labels >= 0)
        of = labels[rows]
        sizes, means = compute_means(points, rows, of)
        within = np.bincount(of, _squares(points[rows] - means[of]))
        return cls(sizes, means, within / np.maximum(sizes - 1, 1))

    def distances(self, points: FloatArray) -> FloatArray:
        """(n, k) mean squared distances of (n, d) points from a member, itself among them where it is one."""
        return np.asarray(squared_distances(points, self.means) + self.spread * (1 - 1 / self.sizes))

    def gaps(self, other: Clouds) -> FloatArray:
        """(k, l) squared distances of the true means: without what the chance of few members adds. Can be negative."""
        apart = squared_distances(self.means, other.means)
        return np.asarray(apart - (self.spread / self.sizes)[:, None] - other.spread / other.sizes)


class Yardstick(NamedTuple):
    """What known classes say of new ones: how loose classes are, on average and at most, and how far apart."""

    known: Clouds
    spread: float
    apart: float
    loosest: float

    @classmethod
    def from_known(cls, points: FloatArray, classes: LabelArray) -> Yardstick:
        """Of (m, d) known points and their (m,) classes. They share one spread in what few shots add to a mean."""
        own = Clouds.from_labels(points, classes)
        pooled = float(own.spread @ (own.sizes - 1) / (own.sizes - 1).sum())
        known = own._replace(spread=np.full(len(own.sizes), pooled))
        apart = np.clip(to_nearest(known).mean(), 0, CLEAR * pooled)
        return cls(known, pooled, float(apart), float(own.spread.max()))


class BesideKnown(NamedTuple):
    """New pictures beside known classes.

    Attributes:
        points: (n, d). yard: of the known classes.
        to_mean: (n,) squared distance from the nearest known mean, less what the chance of few shots adds.
        to_members: (n,) the least mean squared distance from the members of a known class.
    """

    points: FloatArray
    yard: Yardstick
    to_mean: FloatArray
    to_members: FloatArray

    @classmethod
    def from_points(cls, points: FloatArray, yard: Yardstick) -> BesideKnown:
        """Of (n, d) points."""
        squared, chance = squared_distances(points, yard.known.means), yard.known.spread / yard.known.sizes
        return cls(points, yard, (squared - chance).min(axis=1), (squared + yard.known.spread - chance).min(axis=1))


def compute_means(points: FloatArray, rows: IndexArray, of: LabelArray) -> tuple[IndexArray, FloatArray]:
    """(k,) sizes and (k, d) means of groups 0, 1, ... without gaps; ``of`` says in which each of the (m,) rows is."""
    sizes = np.bincount(of)
    members = csc_array((np.ones(len(of)), of, np.arange(len(of) + 1)), (len(sizes), len(of)))
    return sizes, (members @ points[rows]) / sizes[:, None]


def squared_distances(a: FloatArray, b: FloatArray) -> FloatArray:
    """(n, k) squared distances; scikit-learn's function checks its input for longer than these take."""
    squared = _squares(a)[:, None] - 2 * (a @ b.T)
    squared += _squares(b)
    return np.asarray(np.maximum(squared, 0, out=squared))


def _squares(rows: FloatArray) -> FloatArray:
    """(n,) squared lengths."""
    return np.asarray(np.einsum("nd,nd->n", rows, rows))


def to_nearest(clouds: Clouds) -> FloatArray:
    """(k,) squared distance of each from its nearest."""
    gaps = clouds.gaps(clouds)
    np.fill_diagonal(gaps, np.inf)
    return np.asarray(gaps.min(axis=1))
