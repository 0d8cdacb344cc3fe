"""Scores in units of the class that a picture looks like: no class bears the false alarms of all.

Where pooled scores are compared, the pictures of a loose class are strange by its looseness: at alpha = .1 up to half
of them were called novel, and none of a tight class. Here each score is moved and stretched from where the scores of
its class lie to where all lie, and only then are ranks pooled. docs/figures/fairness.md has what that does, and what
we rejected. A score that is normalised before it is ranked: Papadopoulos, Gammerman, Vovk, "Normalized nonconformity
measures for regression conformal prediction", 2008.

A new picture has no class, so it takes that of the nearest class mean, and the known ones do too. What a known picture
and the new one are compared by is measured without both of them, so that each pair is treated alike. With the full
scheme and with a split that gives P(p <= alpha) <= 2 alpha - 1 / (n + 1), by the count in the proof of theorem 1 of
Barber, Candes, Ramdas, Tibshirani, "Predictive inference with the jackknife+", 2021; with leave-one-out the scores of
the other known pictures have seen the one and not the other. What is simulated stands in docs/figures/fairness.md and
calibration.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from sklearn.preprocessing import normalize

from clip_fewshot.conformal.bags import ALONE, Comparison
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

# Average pictures that each class has besides its own, for its spread and at most for its place; classes that lie apart
# have fewer. Few shots score each other and are wrong together: FEW_PRIOR / shots^2 times the likeness of the classes
# (within LIKENESS) are the least. Without them four shots give .12 false alarms at alpha = .1.
SPREAD_PRIOR, PLACE_PRIOR, FEW_PRIOR, LIKENESS = 8, 2, 64, (0.25, 4)


class Looks:
    """Which class's mean is the nearest to a picture: of known pictures, and of new ones beside them.

    Args:
        rows: (n, d) known pictures. kinds: (n,) their classes in 0..c-1, each of which occurs.
        places: (k,) of those that calibrate.

    Attributes:
        members: (k,) of those that calibrate, each without itself. kinds: (k,) their true classes.
    """

    def __init__(self, rows: FloatArray, kinds: LabelArray, places: IndexArray) -> None:
        rows, counts, every = normalize(rows), np.bincount(kinds), np.arange(len(rows))
        self.sums = _indicators(kinds, len(counts)).T @ rows
        self.lengths, mine = np.linalg.norm(self.sums, axis=1), rows @ self.sums.T
        own = mine[every, kinds]
        # The class of a known picture without it: its only one leaves nothing, which is near to nothing.
        left = np.sqrt(np.maximum(self.lengths[kinds] ** 2 - 2 * own + 1, 0))
        left[counts[kinds] == 1] = 0
        mine = _divide(mine, self.lengths)
        mine[every, kinds] = _divide(own - 1, left)
        self.members, self.kinds = mine.argmax(axis=1)[places], kinds[places]
        self.rows, self.left = rows[places], left[places]

    def find(self, X: FloatArray) -> LabelArray:
        """(m,) of (m, d) new pictures."""
        return np.asarray(_divide(normalize(X) @ self.sums.T, self.lengths).argmax(axis=1))

    def find_without(self, X: FloatArray) -> LabelArray:
        """(m, k) of each of (m, d) new pictures, without each of the known ones that calibrate."""
        X = normalize(X)
        near = _divide(X @ self.sums.T, self.lengths)
        first = near.argmax(axis=1)
        rival = near.copy()
        rival[np.arange(len(X)), first] = -np.inf
        # For the picture all other classes are as they were, so the best of them is the first or the second.
        others = np.where(first[:, None] == self.kinds, rival.argmax(axis=1)[:, None], first[:, None])
        without = _divide((X @ self.sums.T)[:, self.kinds] - X @ self.rows.T, self.left)
        return np.where(without >= np.take_along_axis(near, others, axis=1), self.kinds, others)


def scale_scores(compared: Comparison, looks: Looks, X: FloatArray) -> Comparison:
    """The scores of known pictures and of (m, d) new ones, all in the units of an average class.

    With more than 256 known pictures a new one is measured by all of them, and a known one by the others, once for all
    new pictures: 12 pairs of tables as large as the comparison would cost more than the detector. What that ignores is
    one picture of a class; no theorem holds for it. Simulated on 40 classes of 8, false alarms are .036 to .055 at .05.
    """
    (members, own, alone), c = compared, len(looks.sums)
    if alone is not None and len(looks.kinds) > ALONE:
        pairs = Pairs.measure(alone[None], looks.kinds, c)
        return Comparison(
            pairs.move(members, looks.members[None]), pairs.with_all(alone).move(own, looks.find(X)[:, None]), alone
        )
    own = np.broadcast_to(own, members.shape)
    usable = np.isfinite(members).all(axis=1)  # what a detector takes for a copy is infinite, and has no level
    pairs = Pairs.measure(members[usable], looks.kinds, c)
    found = Comparison(members.copy(), own.copy(), alone)
    for scores, classes in (
        (found.members, np.broadcast_to(looks.members, members.shape)),
        (found.own, looks.find_without(X)),
    ):
        scores[usable] = pairs.move(scores[usable], classes[usable])
    return found


class Pairs(NamedTuple):
    """Where the scores of each class lie for each pair of a new and a known picture, measured without both.

    Attributes:
        kinds: (n,) classes of the known pictures. counts: (c,). means, squares: (m, c) mean and sum of squared
            differences from it, with the known picture. less, fewer: (m, n) what its class loses of them without it.
        centre, within: (m, n) mean of all scores, and their variance within classes, without it.
        likeness: (m, n) the latter over the variance between the places of classes, inf where these do not differ.
    """

    kinds: LabelArray
    counts: IndexArray
    means: FloatArray
    squares: FloatArray
    less: FloatArray
    fewer: FloatArray
    centre: FloatArray
    within: FloatArray
    likeness: FloatArray

    @classmethod
    def measure(cls, members: FloatArray, kinds: LabelArray, c: int) -> Pairs:
        """From (m, n) scores of known pictures and their (n,) classes in 0..c-1."""
        n, counts, classes = len(kinds), np.bincount(kinds, minlength=c), _indicators(kinds, c)
        means = members @ classes / np.maximum(counts, 1)
        off = members - means[:, kinds]
        squares = off**2 @ classes
        less = off / np.maximum(counts[kinds] - 1, 1)
        fewer = off * (off + less)
        kept, rest = np.count_nonzero(counts) - (counts[kinds] == 1), max(n - 1, 1)
        inside = np.maximum(squares.sum(axis=1, keepdims=True) - fewer, 0)
        away = members - members.mean(axis=1, keepdims=True)
        total = (away**2).sum(axis=1, keepdims=True) - away**2 * n / rest
        centre = (members.sum(axis=1, keepdims=True) - members) / rest
        return cls(kinds, counts, means, squares, less, fewer, centre, *_compare_spreads(inside, total, rest, kept))

    def with_all(self, scores: FloatArray) -> Pairs:
        """The same of one row of (n,) scores, measured with every known picture."""
        centre, inside = np.full((1, 1), scores.mean()), self.squares.sum(axis=1, keepdims=True)
        spreads = _compare_spreads(
            inside, ((scores - centre) ** 2).sum(), len(scores), int(np.count_nonzero(self.counts))
        )
        nothing = np.zeros((1, 1))
        return Pairs(np.array([-1]), self.counts, self.means, self.squares, nothing, nothing, centre, *spreads)

    def move(self, scores: FloatArray, looks: LabelArray) -> FloatArray:
        """(m, n) scores of pictures that look like (m, n) classes, as those of an average class would be."""
        same = looks == self.kinds
        left = self.counts[looks] - same
        means = np.take_along_axis(self.means, looks, axis=1) - same * self.less
        squares = np.maximum(np.take_along_axis(self.squares, looks, axis=1) - same * self.fewer, 0)
        least = FEW_PRIOR * np.clip(self.likeness, *LIKENESS) / np.maximum(left, 1) ** 2
        prior = np.maximum(np.minimum(self.likeness, PLACE_PRIOR), least)
        place = (left * means + prior * self.centre) / (left + prior)
        spread = (squares + SPREAD_PRIOR * self.within) / (np.maximum(left - 1, 0) + SPREAD_PRIOR)
        stretch = np.sqrt(np.divide(self.within, spread, out=np.ones_like(spread), where=spread > 0))
        return np.asarray(self.centre + (scores - place) * stretch)


def _compare_spreads(
    inside: FloatArray, total: FloatArray, n: int, classes: int | IndexArray
) -> tuple[FloatArray, FloatArray]:
    """Variance within classes, and the same over that between them, of n scores; from sums of squared differences.

    One-way analysis of variance: what the means of classes differ by beyond the noise in them.
    """
    within = inside / np.maximum(n - classes, 1)
    between = np.maximum((total - inside) / np.maximum(classes - 1, 1) - within, 0) * classes / n
    return within, np.divide(within, between, out=np.full(between.shape, np.inf), where=between > 0)


def _indicators(kinds: LabelArray, c: int) -> csr_array:
    return csr_array((np.ones(len(kinds)), (np.arange(len(kinds)), kinds)), shape=(len(kinds), c))


def _divide(sums: FloatArray, lengths: FloatArray) -> FloatArray:
    """Minus infinity where there is nothing to divide by."""
    shape = np.broadcast_shapes(sums.shape, lengths.shape)
    return np.asarray(np.divide(sums, lengths, out=np.full(shape, -np.inf), where=np.broadcast_to(lengths > 0, shape)))
