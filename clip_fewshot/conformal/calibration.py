"""Any detector and a few known pictures become p-values: how often a known picture would look as strange."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from clip_fewshot.conformal.bags import ALONE, Bag, Labels, check_features
from clip_fewshot.conformal.levels import Looks, scale_scores
from clip_fewshot.conformal.p_values import UnsupportedAlphaError, check_alpha, flag, smallest_shots
from clip_fewshot.conformal.schemes import SCHEMES, MakeDetector, Scheme, Split, Together
from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.ties import tie_range
from clip_fewshot.novelty.base import Detector
from clip_fewshot.runtime.rng import derive_seed
from clip_fewshot.types import BoolArray, FloatArray

SCORES_AT_ONCE = 1 << 22  # scores that are compared at a time (32 MiB)
LISTED_CLASSES = 5  # classes that a refusal names before it counts the others


class HeldOut(NamedTuple):
    """A fitted detector, and the (n,) scores of known pictures that it has not seen."""

    detector: Detector
    scores: FloatArray


class Calibrated:
    """p-values of new pictures, from a detector and known pictures that both teach and calibrate it.

    ``full`` is exact, P(p <= alpha) <= alpha, for 1 to 64 shots and any detector; ``leave-one-out`` is at most 2 alpha
    in theory and costs one fit per known picture, not per new one; ``split`` is exact and costs one fit but half of the
    shots. ``python -m experiments.coverage`` measures the false alarms: .024 to .052 at alpha = .05 with LOF on six
    shapes of data, see docs/figures/calibration.md.

    A picture counts once, however many copies of it there are, and a copy of a known picture has p = 1: see
    :mod:`clip_fewshot.conformal.bags`. The order of the known pictures has no say, nor have the other new ones unless
    they are judged ``together``.

    Args:
        make_detector: called for each fit; returns an unfitted detector.
        scheme: a key of ``SCHEMES``: "full", "leave-one-out", "split".
        per_class: False: pooled, valid for pictures that come as the known ones came, class and all. Shots of a fixed
            number are not such a draw: a new picture's class has one member more than it would have had. With 3
            shots of 5 classes the rate is .070 in place of 1/16.
            True: ranked within each class, and the largest p-value holds (Vovk, "Conditional validity of inductive
            conformal predictors", 2012): valid for the pictures of each class, whatever the proportions,
            at the price of as many shots of each class as the other takes in all.
        smoothed: ties, the picture itself among them, count a random share. It makes p uniform without ties and lets
            it fall below 1 / (n + 1); the share is a function of ``seed`` and the picture. The 2 alpha of
            leave-one-out is not proven for it.
        seed: of the split and of the shares.
        levelled: pooled, but each score in units of the class that its picture looks like, so that false alarms spread
            over the classes. ``per_class`` needs no levels. "full" and "split" then are at most 2 alpha in theory and
            below alpha in simulation, and for "leave-one-out" no bound is proven: see
            :mod:`clip_fewshot.conformal.levels`. Up to 256 pictures that calibrate, p-values are interpolated: ranks
            alone are multiples of 1 / (n + 1), so that 56 pictures give .036 at alpha = .05. That adds at most
            1 / (n + 1), and nothing where strange scores are the rarer the stranger they are
            (the distribution is convex there, and Jensen's inequality says the rest).

    Attributes:
        scheme_: what ``SCHEMES`` made. classes_: names, sorted; empty without ``y``.
        n_calibration_: distinct pictures that calibrate: in all, or of the smallest class if ``per_class``.
        n_per_class_: the same of each class.
    """

    def __init__(
        self,
        make_detector: MakeDetector,
        scheme: str = "full",
        per_class: bool = False,
        smoothed: bool = False,
        seed: int = 0,
        levelled: bool = False,
    ) -> None:
        if scheme not in SCHEMES:
            raise UsageError(
                expected=f"a scheme out of {sorted(SCHEMES)}",
                got=repr(scheme),
                fix="check the spelling",
                where="scheme",
            )
        given: object = make_detector
        if not callable(given):
            fix = "pass a class or a function"
            raise UsageError(expected="what makes detectors", got=repr(make_detector), fix=fix, where="make_detector")
        self.make_detector, self.scheme = make_detector, scheme
        self.per_class, self.smoothed, self.seed, self.levelled = per_class, smoothed, seed, levelled

    def fit(self, X: FloatArray, y: Labels | None = None) -> Calibrated:
        """Learn from (n, d) features of known pictures and their (n,) classes.

        Raises:
            UsageError: ``per_class`` or ``levelled`` without classes, or too few pictures for the detector.
        """
        if (self.per_class or self.levelled) and y is None:
            asked = "per_class" if self.per_class else "levelled"
            raise UsageError(expected="classes", got="none", fix=f"pass y, or ask for {asked}=False", where=asked)
        self.__dict__.pop("looks", None)
        self.bag_ = Bag.from_features(X, y)
        self._batch: Together | None = None
        self.scheme_ = SCHEMES[self.scheme](self.make_detector, self.bag_, self.seed)
        self.classes_, labels = self.bag_.classes(), self.scheme_.labels
        calibrating = len(self.bag_) if self.scheme_.per_shot == 1 else len(self.bag_) // 2
        self.n_per_class_ = {} if labels is None else {one: int(np.sum(labels == one)) for one in self.classes_}
        self.n_calibration_ = min(self.n_per_class_.values()) if self.per_class else calibrating
        return self

    def p_values(self, X: FloatArray, together: bool = False) -> FloatArray:
        """(m,) p-values of (m, d) pictures. Small = novel.

        Args:
            together: False: each as if it had come alone. True: as one batch, in which more is found: see
                :class:`clip_fewshot.conformal.schemes.Together`, which takes the place of the scheme.
        """
        rows = check_features(X, self.bag_.rows.shape[1])
        p = np.ones(len(rows))
        fresh = np.flatnonzero(~self.bag_.has_copy(rows)) if len(rows) else np.arange(0)
        size = max(1, len(fresh) if together else SCORES_AT_ONCE // len(self.bag_))
        for part in np.split(fresh, np.arange(size, len(fresh), size)) if len(fresh) else ():
            p[part] = self._largest(rows[part], self._together() if together else self.scheme_)
        return p

    def held_out(self) -> HeldOut:
        """What a stream begins with: see :class:`clip_fewshot.conformal.stream.StreamRanks`.

        Raises:
            UsageError: a scheme whose detectors have seen every known picture.
        """
        if not isinstance(self.scheme_, Split):
            raise UsageError(
                expected='scheme="split"', got=repr(self.scheme), fix="calibrate with it", where="held_out"
            )
        return HeldOut(self.scheme_.detector, self.scheme_.scores)

    def _together(self) -> Together:
        try:
            self._batch = self._batch or Together(self.make_detector, self.bag_)
        except UsageError as error:
            raise UsageError(
                expected="known images enough to fit a detector without each of them",
                got=f"{len(self.bag_)}",
                fix="add images, or judge each picture alone",
                where="pictures judged together",
            ) from error
        return self._batch

    def _largest(self, rows: FloatArray, scheme: Scheme) -> FloatArray:
        """(m,) the p-value under the class that suits each picture best; pooled, under that with which it fits."""
        asks = self.per_class or scheme.asks_class
        labels: list[Hashable | None] = [*self.classes_] if asks and self.classes_ else [None]
        shares, found = self._shares(rows), np.zeros(len(rows))
        compared = scheme.compare(rows, labels)
        if not self.per_class:  # many classes share a comparison
            compared = {id(one): one for one in compared.values()}
        looks = self.looks if scheme is self.scheme_ else self._look(scheme)
        for label, one in compared.items():
            members, own, _ = one if looks is None else scale_scores(one, looks, rows)
            if self.per_class:
                which = scheme.labels == label
                members, own = members[:, which], own[:, which] if own.shape[1] > 1 else own
            if looks is not None and not self.smoothed and members.shape[1] <= ALONE:
                shares = _shares_of_gaps(members, own)
            found = np.maximum(found, _ranks(members, own, shares))
        return found

    @cached_property
    def looks(self) -> Looks | None:
        """What the calibrating pictures look like; None where scores are ranked as they are."""
        return self._look(self.scheme_)

    def _look(self, scheme: Scheme) -> Looks | None:
        if not self.levelled or self.per_class or self.bag_.labels is None:
            return None
        kinds = np.unique(self.bag_.labels, return_inverse=True)[1]
        return Looks(self.bag_.rows, kinds, scheme.places)

    def _shares(self, rows: FloatArray) -> FloatArray:
        """(m,) how much of a tie counts, in (0, 1)."""
        if not self.smoothed:
            return np.ones(len(rows))
        return np.array(
            [draw_uniform(self.seed, "smoothed p-value", sha256(row.tobytes()).hexdigest()) for row in rows]
        )

    def flags(self, p: FloatArray, alpha: float) -> BoolArray:
        """(m,) which p-values call a picture novel.

        Raises:
            UnsupportedAlphaError: see :meth:`refusal`; nothing is decided by another rule instead.
        """
        short = self._short(alpha)
        if short is not None:
            raise short
        return flag(p, alpha, self.n_calibration_)

    def shots_needed(self, alpha: float) -> int:
        """Distinct known pictures, in all or of each class, that support ``alpha`` under this scheme."""
        return round(smallest_shots(alpha) / self.scheme_.per_shot)

    def refusal(self, alpha: float) -> str | None:
        """Why ``alpha`` cannot be kept, and the shots that could; or None.

        Raises:
            UsageError: ``alpha`` is not between 0 and 1.
        """
        short = self._short(alpha)
        return None if short is None else f"it takes {short.expected}, and there are {short.got}; {short.fix}"

    def _short(self, alpha: float) -> UnsupportedAlphaError | None:
        try:
            check_alpha(alpha, self.n_calibration_)
        except UnsupportedAlphaError as error:
            shots = self.shots_needed(alpha)
            half = "" if shots == error.needed else f", which is {number(shots, 'shot')},"
            if not self.per_class:
                return UnsupportedAlphaError(alpha, error.n, f"calibration images in all{half}")
            few = [(name, n) for name, n in self.n_per_class_.items() if n < error.needed]
            have = ", ".join(f"{n:,} of {name}" for name, n in few[:LISTED_CLASSES])
            have += (
                f" and too few of {number(len(few) - LISTED_CLASSES, 'class', 'classes')} more"
                if len(few) > LISTED_CLASSES
                else ""
            )
            what = f"calibration images of each class{half}"
            return UnsupportedAlphaError(alpha, error.n, what, have, "ask for per_class=False")
        return None


def draw_uniform(seed: int, *purpose: str | int) -> float:
    """A number in (0, 1) for ``purpose``, independent of those of other purposes."""
    return (derive_seed(seed, *purpose) + 0.5) / 2.0**63


def _ranks(members: FloatArray, own: FloatArray, shares: FloatArray) -> FloatArray:
    """(m,) share of the n members and the picture that are at least as strange; of those that tie, ``shares``."""
    least, greatest = tie_range(own)
    below, at_most = np.count_nonzero(members < least, axis=1), np.count_nonzero(members <= greatest, axis=1)
    n = members.shape[1]
    return np.asarray((below + shares * (at_most - below + 1)) / (n + 1))


def _shares_of_gaps(members: FloatArray, own: FloatArray) -> FloatArray:
    """(m,) how far up a picture lies in the gap between the next lower and the next higher member, in (0, 1].

    1 where it ties with a member, or where there is no lower or no higher one. Beran, Hall, "Interpolated nonparametric
    prediction intervals and confidence intervals", 1993.
    """
    least, greatest = tie_range(own)
    lower = np.where(members < least, own - members, np.inf).min(axis=1)
    upper = np.where(members > greatest, members - own, np.inf).min(axis=1)
    inside = np.isfinite(lower + upper) & ~((members >= least) & (members <= greatest)).any(axis=1)
    return np.asarray(np.divide(lower, lower + upper, out=np.ones(len(lower)), where=inside))
