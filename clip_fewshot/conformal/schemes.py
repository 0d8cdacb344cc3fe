"""Ways to let the same known pictures teach a detector and calibrate it: split, leave-one-out, full, in a batch.

Each says what a new picture is compared with: the scores of known pictures that are as new to the detector as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

import numpy as np

from clip_fewshot.conformal.bags import ALONE, Bag, Comparison, Labels
from clip_fewshot.conformal.batch import ask_together
from clip_fewshot.conformal.neighbour_bags import find_shortcut
from clip_fewshot.errors import UsageError
from clip_fewshot.novelty.base import Detector, needs_no_refits
from clip_fewshot.novelty.rows import split_left_out
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

MakeDetector = Callable[[], Detector]


class Scheme(Protocol):
    """Made from (make_detector, bag, seed).

    Attributes:
        places: (n,) of the calibration pictures in the bag. labels: (n,) their classes, or None.
        per_shot: the share of the known pictures that calibrates.
        asks_class: the scores of a new picture depend on the class that it is supposed to be of.
    """

    places: IndexArray
    labels: Labels | None
    per_shot: float
    asks_class: bool

    def compare(self, X: FloatArray, labels: Sequence[Hashable | None]) -> Mapping[Hashable | None, Comparison]:
        """What (m, d) pictures, none a copy of a known one, are compared with if they are of class ``label``."""


class Full:
    """The picture joins the bag; every member is scored by the detector of all others.

    Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005, chapter 2: P(p <= alpha) <= alpha for a
    picture exchangeable with the known ones, because nothing separates it from the other members. All known pictures
    fit the detector and all calibrate. Where the detector uses classes, the picture joins as a member of each class in
    turn and the largest p-value holds, which is no less than that of its own class. A fit per picture and class, but
    for LOF and nearest neighbours.
    """

    per_shot, asks_class = 1.0, True

    def __init__(self, make_detector: MakeDetector, bag: Bag, seed: int) -> None:
        self.make_detector, self.bag, self.labels, self.places = make_detector, bag, bag.labels, np.arange(len(bag))
        self.shortcut = find_shortcut(make_detector(), bag)

    def compare(self, X: FloatArray, labels: Sequence[Hashable | None]) -> Mapping[Hashable | None, Comparison]:
        """Scores of the picture and of all members, each under the detector of the full bag without itself."""
        if self.shortcut is None:
            return {label: self._fits(X, label) for label in labels}
        k = self.shortcut.n_neighbors(labels)
        found = {one: Comparison(*self.shortcut.scores(X, one)) for one in set(k.values())}
        return {label: found[k[label]] for label in labels}

    def _fits(self, X: FloatArray, label: Hashable | None) -> Comparison:
        scores = np.empty((len(X), len(self.bag) + 1))
        for i, place in enumerate(self.bag.places(X)):
            scores[i] = self._fit(X[i], place, label)
        return Comparison(scores[:, 1:], scores[:, :1])

    def _fit(self, row: FloatArray, place: int, label: Hashable | None) -> FloatArray:
        """(n + 1,) scores of the picture and of the members; infinite for a row that the detector counts as a copy."""
        rows, labels = np.insert(self.bag.rows, place, row, axis=0), self.bag.labels
        y = None if labels is None else np.insert(labels, place, np.array([label], dtype=labels.dtype))
        detector = self.make_detector().fit(rows, y)
        scores = np.full(len(rows), np.inf)
        scores[detector.kept_] = detector.loo_scores_
        return np.concatenate([scores[[place]], np.delete(scores, place)])


class LeaveOneOut:
    """The picture and a known one are compared by the detector of all other known ones, for each known one in turn.

    The jackknife+ of Barber, Candes, Ramdas, Tibshirani, "Predictive inference with the jackknife+", 2021, with the
    score of a detector in place of the residual of a regression and the count of theorem 1's proof in place of the
    interval: P(p <= alpha) <= 2 alpha - 1 / (n + 1) in theory, without any condition on the detector; near alpha in
    practice. A fit per known picture, whatever the number of new ones, or one in all: see
    :class:`clip_fewshot.novelty.base.LeavesOut`. Above 256 known pictures there are 20 fits, each
    without a twentieth of every class: their cross-validation+, with at most 1 / 21 in place of -1 / (n + 1).
    """

    per_shot, asks_class = 1.0, False

    def __init__(self, make_detector: MakeDetector, bag: Bag, seed: int) -> None:
        self.bag, self.labels, self.places = bag, bag.labels, np.arange(len(bag))
        self.parts = split_left_out(_number_classes(bag.labels, len(bag)), ALONE)
        whole, singly = make_detector(), len(self.parts) == len(bag)
        self.shortcut = find_shortcut(whole, bag) if singly else None
        self.whole = whole.fit(bag.rows, bag.labels) if singly and needs_no_refits(whole) else None
        refits = [] if self.shortcut or self.whole else self.parts
        self.detectors = [_without(make_detector, bag, part) for part in refits]

    def compare(self, X: FloatArray, labels: Sequence[Hashable | None]) -> Mapping[Hashable | None, Comparison]:
        """Scores of the members under the detector of the others, and of each picture under the same detectors."""
        members: FloatArray
        pictures: FloatArray
        if self.whole is not None:
            members, pictures = self.whole.loo_scores_, self.whole.score_without(X)
        elif self.shortcut is None:
            members, pictures = np.empty(len(self.bag)), np.empty((len(X), len(self.bag)))
            for part, detector in zip(self.parts, self.detectors, strict=True):
                scores = detector.score_samples(np.concatenate([self.bag.rows[part], X]))
                members[part], pictures[:, part] = scores[: len(part)], scores[len(part) :, None]
        else:
            members, pictures = self.shortcut.scores_without(X)
        return dict.fromkeys(labels, Comparison(np.broadcast_to(members, pictures.shape), pictures, members))


class Split:
    """Half of the known pictures teach the detector, the others calibrate it.

    Bates et al., 2023, eq. 2. One fit; valid given the split, also for several pictures at once, whose p-values are
    positively dependent. Members are shared out class by class, so that a class of odd size favours either half in
    turn; with classes of fixed size P(p <= alpha) <= alpha (n + 1) / n for pictures that come in their proportions, and
    exactly alpha within a class.

    Attributes:
        detector, scores: fitted on one half; (n,) what it says of the other.
    """

    per_shot, asks_class = 0.5, False

    def __init__(self, make_detector: MakeDetector, bag: Bag, seed: int) -> None:
        teach, self.places = split_in_halves(bag.labels, len(bag), seed)
        if not len(self.places):
            raise UsageError(
                expected="2 distinct known images or more", got=f"{len(bag)}", fix="add images", where="split"
            )
        self.labels = None if bag.labels is None else bag.labels[self.places]
        self.detector = make_detector().fit(bag.rows[teach], None if bag.labels is None else bag.labels[teach])
        self.scores = self.detector.score_samples(bag.rows[self.places])

    def compare(self, X: FloatArray, labels: Sequence[Hashable | None]) -> Mapping[Hashable | None, Comparison]:
        """Scores of the calibrating half and of each picture, under the detector of the other half."""
        own = self.detector.score_samples(X)[:, None]
        return dict.fromkeys(
            labels, Comparison(np.broadcast_to(self.scores, (len(X), len(self.scores))), own, self.scores)
        )


class Together:
    """The pictures and a known one are compared by the detector of all other known ones, and by their company.

    A score is the detector's and, where it is low, the logarithm of what reaches a picture from the known ones of the
    detector on ways through all known and new pictures; both in standard deviations of known pictures that are left
    out. The kernel of such ways is that of Smola, Kondor, "Kernels and Regularization on Graphs", 2003, section 3.

    Two pictures, a known one left out and a new one, are nodes of one graph without any difference, and neither is a
    start. So the bound of :class:`LeaveOneOut` holds for each picture, 2 alpha - 1 / (n + 1), whatever the others of
    the batch are; near alpha in practice. It is one of scores as they are: levelled ones, see
    :mod:`clip_fewshot.conformal.levels`, are only simulated. Pictures of a batch are wrong together more often than
    lone ones: the rate is a mean over batches.
    """

    per_shot, asks_class = 1.0, False

    def __init__(self, make_detector: MakeDetector, bag: Bag) -> None:
        self.bag, self.labels, self.places = bag, bag.labels, np.arange(len(bag))
        self.parts = split_left_out(_number_classes(bag.labels, len(bag)), ALONE)
        self.detectors = [_without(make_detector, bag, part) for part in self.parts]

    def compare(self, X: FloatArray, labels: Sequence[Hashable | None]) -> Mapping[Hashable | None, Comparison]:
        """Scores of the members and of each picture of the batch ``X``, under the same detectors."""
        members, own = np.empty(len(self.bag)), np.empty((len(X), len(self.bag)))
        asked = ask_together(self.detectors, self.bag.rows, self.parts, X)
        for part, (held_out, batch) in zip(self.parts, asked, strict=True):
            members[part], own[:, part] = held_out, batch[:, None]
        return dict.fromkeys(labels, Comparison(np.broadcast_to(members, own.shape), own, members))


SCHEMES: dict[str, Callable[[MakeDetector, Bag, int], Scheme]] = {
    "full": Full,
    "leave-one-out": LeaveOneOut,
    "split": Split,
}


def split_in_halves(labels: Labels | None, n: int, seed: int) -> tuple[IndexArray, IndexArray]:
    """Two halves of n places, the first no smaller, each class in equal parts or one more in either."""
    random = generator(seed, "calibration split")
    classes = _number_classes(labels, n)
    order = np.lexsort((random.permutation(n), random.permutation(classes.max() + 1)[classes]))
    return np.sort(order[::2]), np.sort(order[1::2])


def _number_classes(labels: Labels | None, n: int) -> LabelArray:
    return np.asarray(np.zeros(n, dtype=np.int64) if labels is None else np.unique(labels, return_inverse=True)[1])


def _without(make_detector: MakeDetector, bag: Bag, part: IndexArray) -> Detector:
    labels = None if bag.labels is None else np.delete(bag.labels, part)
    return make_detector().fit(np.delete(bag.rows, part, axis=0), labels)
