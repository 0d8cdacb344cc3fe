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
then, and they fall into many of the known classes, one displacement explains what no picture alone does, unless the few
could be compared and stay where they were. New classes can be explained so too. But they do not stand to each other as
the known ones do, and known pictures among them do not stay ordinary in their class. So "shift" alone is said where
both hold: the means of the batch's classes correlate with those of the known ones by a half and more, and by more than
those of known classes that are taken for new ones; and most pictures that looked ordinary do so as before. Where enough
look ordinary, the agreement must not lie far below that of chance. Else the verdict says both.
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
_Pair = tuple[FloatArray, FloatArray]  # rows of one class, known and new
SHIFT_ALPHA = 0.005  # for 0.01 of known batches: where few classes make up most of one, up to twice it is realised
ORDINARY = 0.8  # of known pictures; 0.9 calls a quarter of the batches of new classes alone a shift
FEWEST_ORDINARY = 8  # ordinary pictures of a batch, below which nothing is compared
FEWEST_STRANGE = 40  # pictures of a batch, below which a shift that leaves few ordinary is not looked for
MOST_OF_BATCH = 500  # pictures of a batch
SHARINGS = 499  # of the pictures of each class between known and new ones, drawn
ENOUGH_ORDINARY = 0.25  # share that looks ordinary, below which new classes are not ruled out
STAYED = 0.2  # p-value above which the few ordinary pictures, compared, have not moved: others among them are new
EXPLAINED = 2.0  # times as many pictures look ordinary once the displacement is taken off
SPREAD = 0.35  # effective share of the known classes that they then look like
LEAST_AGREEMENT = 0.55  # with the known classes, once the displacement is taken off; new ones have up to 0.5
HIDINGS, CHANCE_QUANTILE = 12, 0.9  # rounds of known classes taken for new ones; of the agreement they reach
AGREEMENT_DOUBT = 0.15  # how far below chance the agreement may lie where enough pictures look ordinary and have moved
MOST_KEPT = 0.7  # of the ordinary pictures that look like the same class, and ordinary, once it is taken off
SHARE_COMPARED = 0.5  # of its fair share: a class with less is not compared, as most of it is mistaken for it
ALIGNMENTS = 10  # rounds
MOST_SHARE = 2.0  # times its fair share of a batch: what a class counts for at most in the alignment


class Shift(NamedTuple):
    """How a batch stands to the known pictures.

    Attributes:
        p_value: of the test, in (0, 1]; 1 where too few pictures look ordinary to compare any.
        ordinary: share of the batch that looks ordinary; about 0.8 of known pictures do.
        undone: the same once the displacement that is common to all classes is taken off.
        spread: effective number of classes into which the batch falls then, as a share of the known classes.
        pictures: in the batch, at most 500, which are drawn from a larger one.
        kept: share of the ordinary pictures that then look ordinary in the same class; 1 where there are none.
        agreement: correlation of the means of the batch's classes with those of the known ones, in [-1, 1].
        chance: what known classes reach that are taken for new ones of the others.
    """

    p_value: float
    ordinary: float
    undone: float
    spread: float
    pictures: int
    kept: float
    agreement: float
    chance: float

    def verdict(self, alpha: float = SHIFT_ALPHA) -> str:
        """Of "same", "shift", and "shift or new", where a batch of new classes alone might look like this as well."""
        if self.ordinary >= ENOUGH_ORDINARY:
            found, alike = self.moved(alpha), self.agreement >= self.chance - AGREEMENT_DOUBT
        else:
            explained = self.undone >= max(EXPLAINED * self.ordinary, 1 - ORDINARY) and self.spread >= SPREAD
            stayed = STAYED < self.p_value < 1 or self.pictures < FEWEST_STRANGE
            found = self.moved(alpha) or (explained and not stayed)
            alike = self.kept >= MOST_KEPT and self.agreement >= max(LEAST_AGREEMENT, self.chance)
        return (SHIFT if alike else SHIFT_OR_NEW) if found else UNMOVED

    def moved(self, alpha: float = SHIFT_ALPHA) -> bool:
        """Whether the ordinary pictures have."""
        return self.p_value <= alpha

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
        >>> from clip_fewshot.conformal.shift import find_shift
        >>> random = np.random.default_rng(0)
        >>> y, means = np.repeat([0, 1, 2], 8), 8 * np.eye(3, 16)
        >>> known, others = means[y] + random.normal(size=(2, 24, 16))
        >>> find_shift(known, y, others).verdict(), find_shift(known, y, others + 1).verdict()
        ('same', 'shift')
    """
    known = normalize(as_rows(X, "find_shift")) if len(X) else np.empty((0, 0))
    new = as_rows(batch, "find_shift", known.shape[1] if len(known) else None)
    labels = np.unique(as_array(y, "find_shift"), return_inverse=True)[1]
    if len(new) < FEWEST_ORDINARY or len(np.unique(labels)) < 2 or np.bincount(labels).max() < 2:
        return Shift(1.0, 1.0, 1.0, 1.0, len(new), 1.0, 1.0, 0.0)
    random = generator(seed, "shift")
    new = normalize(new[np.sort(random.permutation(len(new))[:MOST_OF_BATCH])])
    means = np.stack([known[labels == j].mean(axis=0) for j in range(labels.max() + 1)])
    usual, seen = _look_without(known, labels, means), _look(new, means)
    limit = float(np.quantile(usual.distances, ORDINARY))
    ordinary = seen.distances <= limit
    typical = usual.distances <= limit
    pairs = _pair_up(known[typical], usual.classes[typical], new[ordinary], seen.classes[ordinary], len(means))
    aligned, classes = _align(new, means)
    undone = _look(aligned, means).distances <= limit
    counts = np.bincount(classes)
    errors = np.array([_error_of_mean(known[labels == j]) for j in range(len(means))])
    return Shift(
        p_value=_p_value(pairs, random),
        ordinary=float(ordinary.mean()),
        undone=float(undone.mean()),
        spread=float(counts.sum() ** 2 / (counts**2).sum() / len(means)),
        pictures=len(new),
        kept=float((undone & (classes == seen.classes))[ordinary].mean()) if ordinary.any() else 1.0,
        agreement=_agreement(new, classes, means, errors),
        chance=_chance(known, labels, means, errors, random),
    )


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


def _align(rows: FloatArray, means: FloatArray) -> tuple[FloatArray, LabelArray]:
    """The rows less the displacement that brings them nearest to the class means, and the (m,) class of each.

    Classes and displacement in turn, from the difference of the means. The class is the one in whose direction from the
    centre of all a picture lies: a blur draws pictures to the centre, and all are nearest to the class there. A class
    counts for twice its fair share at most, for the same reason.
    """
    centre = means.mean(axis=0)
    directions = normalize(means - centre)
    moved = rows.mean(axis=0) - centre
    for _ in range(ALIGNMENTS):
        classes = ((rows - moved - centre) @ directions.T).argmax(axis=1)
        counts = np.bincount(classes, minlength=len(means))
        weights = (np.minimum(counts, MOST_SHARE * len(rows) / len(means)) / np.maximum(counts, 1))[classes]
        moved = weights @ (rows - means[classes]) / weights.sum()
    return np.asarray(rows - moved), classes


def _agreement(rows: FloatArray, classes: LabelArray, means: FloatArray, errors: FloatArray) -> float:
    """Correlation of the means of ``rows`` in each of their ``classes`` with ``means``, in [-1, 1]; 0 of one class.

    Args:
        errors: (c,) expected squared distance of each of ``means`` from the true one.
    """
    counts = np.bincount(classes, minlength=len(means))
    used = np.flatnonzero(counts >= max(2.0, SHARE_COMPARED * len(rows) / len(means)))
    if len(used) < 2:
        return 0.0
    groups = [rows[classes == j] for j in used]
    found = np.stack([group.mean(axis=0) for group in groups])
    scatters = (
        _scatter(found, np.array([_error_of_mean(group) for group in groups])),
        _scatter(means[used], errors[used]),
    )
    common = float(((found - found.mean(axis=0)) * means[used]).sum())
    return float(np.clip(common / np.sqrt(np.prod(scatters)), -1, 1)) if min(scatters) > 0 else 0.0


def _scatter(means: FloatArray, errors: FloatArray) -> float:
    """Sum of squared distances of the true means from their own mean, estimated without bias."""
    return float(((means - means.mean(axis=0)) ** 2).sum() - (1 - 1 / len(means)) * errors.sum())


def _error_of_mean(rows: FloatArray) -> float:
    """Expected squared distance of the mean of ``rows`` from the true one; of one row nothing is known: 0."""
    return float(rows.var(axis=0, ddof=1).sum() / len(rows)) if len(rows) > 1 else 0.0


def _chance(
    known: FloatArray, labels: LabelArray, means: FloatArray, errors: FloatArray, random: np.random.Generator
) -> float:
    """The agreement that known classes reach where half of them are taken for new ones of the others."""
    reached = []
    for _ in range(HIDINGS):
        hidden, others = np.array_split(random.permutation(len(means)), [len(means) // 2])
        rows = known[random.permutation(np.flatnonzero(np.isin(labels, hidden)))[:MOST_OF_BATCH]]
        classes = _align(rows, means[others])[1]
        reached.append(_agreement(rows, classes, means[others], errors[others]))
    return float(np.quantile(reached, CHANCE_QUANTILE))


def _pair_up(known: FloatArray, usual: LabelArray, new: FloatArray, seen: LabelArray, n_classes: int) -> list[_Pair]:
    """Ordinary rows of each class to compare, known and new, by the class they look like; none if they are too few."""
    fair = SHARE_COMPARED * len(new) / n_classes
    pairs = [(known[usual == j], new[seen == j]) for j in range(n_classes)]
    pairs = [pair for pair in pairs if len(pair[0]) and len(pair[1]) >= max(1.0, fair)]
    return pairs if len(pairs) > 1 and sum(len(rows) for _, rows in pairs) >= FEWEST_ORDINARY else []


def _p_value(pairs: list[_Pair], random: np.random.Generator) -> float:
    """Of the displacement common to classes, from (known, new) rows of two classes or more; 1 of none."""
    if not pairs:
        return 1.0
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
