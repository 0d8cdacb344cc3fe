"""Another camera, or new classes? A test of a whole batch of pictures against the known ones.

Another camera moves the features of all classes alike. New classes leave the pictures of the known classes where they
were. So the pictures that *look ordinary* are compared with the known pictures that do, class by class: in a batch with
new classes these are pictures of known classes, and have not moved; in a batch of another camera they have, as far as
all others. The statistic is the sum, over pairs of classes, of the inner product of their displacements: what one class
alone does, as where a new class looks like it, adds nothing. Its level comes from permuting pictures between the known
and the new ones within each class (Pesarin, "Multivariate Permutation Tests", 2001: strata). The class is the one that
a picture looks like, a known picture seen without itself: with the true classes of the known ones, which the batch has
not, a tower that confuses classes calls up to 22 % of its known batches shifted at a level of 5 %. All is exact but for
a known picture's class mean, which has one picture less. That the level is kept is measured: docs/figures/shift.md.

Where the shift is so strong that few pictures look ordinary, it is taken off: if at least twice as many look ordinary
then, and they fall into many of the known classes, one displacement explains what no picture alone does. Pictures that
are all foreign and all alike can do so too, and then no batch test can tell: the verdict says both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import normalize

from clip_fewshot.evaluation.ties import tie_range
from clip_fewshot.runtime.arrays import as_array, as_rows
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, LabelArray

UNMOVED, SHIFT, SHIFT_OR_NEW = "same", "shift", "shift or new"
SHIFT_ALPHA = (
    0.005  # for 0.01 of known batches: where few classes make up most of one, up to twice the level is realised
)
ORDINARY = 0.8  # of known pictures; 0.9 calls a quarter of the batches of new classes alone a shift
FEWEST_ORDINARY = 8  # ordinary pictures of a batch, below which nothing is compared
FEWEST_STRANGE = 40  # pictures of a batch, below which a shift that leaves few ordinary is not looked for
MOST_OF_BATCH = 500  # pictures of a batch
SHARINGS = 499  # of the pictures of each class between known and new ones, drawn
ENOUGH_ORDINARY = 0.25  # share that looks ordinary, below which new classes are not ruled out
EXPLAINED = 2.0  # times as many pictures look ordinary once the displacement is taken off
SPREAD = 0.35  # effective share of the known classes that they then look like
SHARE_COMPARED = 0.5  # of its fair share: a class with less is not compared, as most of it is mistaken for it
ALIGNMENTS = 10  # rounds
MOST_SHARE = 2.0  # times its fair share of a batch: what a class counts for at most in the alignment


class Shift(NamedTuple):
    """How a batch stands to the known pictures.

    Attributes:
        p_value: of the test, in (0, 1]; 1 where too few pictures look ordinary to compare any.
        ordinary: share of the batch that looks ordinary; about 0.8 of known pictures do.
        undone: the same once the displacement that is common to all classes is taken off.
        spread: effective number of classes into which these fall, as a share of the known classes.
        pictures: in the batch, at most 500, which are drawn from a larger one.
    """

    p_value: float
    ordinary: float
    undone: float
    spread: float
    pictures: int

    def verdict(self, alpha: float = SHIFT_ALPHA) -> str:
        """Of "same", "shift", and "shift or new", where a batch of new classes alone might look like this as well."""
        moved = self.p_value <= alpha
        if moved and self.ordinary >= ENOUGH_ORDINARY:
            return SHIFT
        explained = self.undone >= max(EXPLAINED * self.ordinary, 1 - ORDINARY) and self.spread >= SPREAD
        return SHIFT_OR_NEW if moved or (explained and self.pictures >= FEWEST_STRANGE) else UNMOVED

    def to_json(self) -> dict[str, Any]:
        """For a record, with the verdict."""
        return {"verdict": self.verdict()} | self._asdict()


class _Looks(NamedTuple):
    """(m,) class that each picture looks like, the one of the nearest mean, and its squared distance to that."""

    classes: LabelArray
    distances: FloatArray


def find_shift(X: FloatArray, y: LabelArray, batch: FloatArray, seed: int = 0) -> Shift:
    """Whether a batch comes from elsewhere than the known pictures, whatever classes it holds in which proportions.

    Args:
        X: (n, d) features of the known pictures, of an encoder that was not tuned on them. y: (n,) their classes.
        batch: (m, d) features of the pictures in question, drawn independently: of near copies, as in a film, keep one.

    Raises:
        UsageError: no rows of numbers, or of another width than ``X``.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> y, means = np.repeat([0, 1, 2], 8), 8 * np.eye(3, 16)
        >>> known, others = means[y] + random.normal(size=(2, 24, 16))
        >>> find_shift(known, y, others).verdict(), find_shift(known, y, others + 1).verdict()
        ('same', 'shift')
    """
    known = normalize(as_rows(X, "find_shift")) if len(X) else np.empty((0, 0))
    new = as_rows(batch, "find_shift", known.shape[1] if len(known) else None)
    labels = np.unique(as_array(y, "find_shift"), return_inverse=True)[1]
    if len(new) < FEWEST_ORDINARY or not len(known) or np.bincount(labels).max() < 2:
        return Shift(1.0, 1.0, 1.0, 1.0, len(new))
    random = generator(seed, "shift")
    new = normalize(new[np.sort(random.permutation(len(new))[:MOST_OF_BATCH])])
    means = np.stack([known[labels == j].mean(axis=0) for j in range(labels.max() + 1)])
    usual, seen = _look_without(known, labels, means), _look(new, means)
    limit = float(np.quantile(usual.distances, ORDINARY))
    ordinary = seen.distances <= limit
    pairs = [
        (known[(usual.distances <= limit) & (usual.classes == j)], new[ordinary & (seen.classes == j)])
        for j in range(len(means))
    ]
    after = _look(_align(new, means), means)
    undone = after.distances <= limit
    counts = np.bincount(after.classes[undone])
    spread = counts.sum() ** 2 / max(1, (counts**2).sum()) / len(means)
    fair = SHARE_COMPARED * ordinary.sum() / len(means)
    pairs = [pair for pair in pairs if len(pair[0]) and len(pair[1]) >= max(1.0, fair)]
    enough = len(pairs) > 1 and sum(len(rows) for _, rows in pairs) >= FEWEST_ORDINARY
    p = _p_value(pairs, random) if enough else 1.0
    return Shift(p, float(ordinary.mean()), float(undone.mean()), float(spread), len(new))


def _look(rows: FloatArray, means: FloatArray) -> _Looks:
    distances = euclidean_distances(rows, means, squared=True)
    return _Looks(distances.argmin(axis=1), distances.min(axis=1))


def _look_without(rows: FloatArray, labels: LabelArray, means: FloatArray) -> _Looks:
    """The same of known rows, each as if it were new: the mean of its own class is that of the others."""
    distances = euclidean_distances(rows, means, squared=True)
    counts = np.bincount(labels)[labels]
    own = distances[np.arange(len(rows)), labels]
    distances[np.arange(len(rows)), labels] = np.where(
        counts > 1, own * (counts / np.maximum(counts - 1, 1)) ** 2, np.inf
    )
    return _Looks(distances.argmin(axis=1), distances.min(axis=1))


def _align(rows: FloatArray, means: FloatArray) -> FloatArray:
    """The rows less the displacement that brings them nearest to the class means.

    Classes and displacement in turn, from the difference of the means. A class counts for twice its fair share at most:
    without that limit all pictures of a strong blur gather around one class.
    """
    moved = rows.mean(axis=0) - means.mean(axis=0)
    for _ in range(ALIGNMENTS):
        nearest = _look(rows - moved, means).classes
        counts = np.bincount(nearest, minlength=len(means))
        weights = (np.minimum(counts, MOST_SHARE * len(rows) / len(means)) / np.maximum(counts, 1))[nearest]
        moved = weights @ (rows - means[nearest]) / weights.sum()
    return np.asarray(rows - moved)


def _p_value(pairs: list[tuple[FloatArray, FloatArray]], random: np.random.Generator) -> float:
    """Of the displacement common to classes, from (known, new) rows of two classes or more."""
    total, alone = np.zeros((SHARINGS + 1, pairs[0][0].shape[1])), np.zeros(SHARINGS + 1)
    for known, new in pairs:
        rows = np.concatenate([known, new])
        signs = np.concatenate([np.full(len(known), -1 / len(known)), np.full(len(new), 1 / len(new))])
        drawn = np.concatenate([signs[None], random.permuted(np.tile(signs, (SHARINGS, 1)), axis=1)])
        precision = 1 / (1 / len(known) + 1 / len(new))
        moved = precision * drawn @ (rows - rows.mean(axis=0))
        total += moved
        alone += (moved**2).sum(axis=1)
    common = (total**2).sum(axis=1) - alone
    return float((common >= tie_range(common[:1])[0]).mean())
