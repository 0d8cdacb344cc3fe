"""Several detectors in one: the mean of the ranks that each gives an image among the known ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation.ties import tie_range
from clip_fewshot.novelty.base import Detector, LateDecision
from clip_fewshot.novelty.knn import KNNDetector
from clip_fewshot.novelty.mahalanobis import MahalanobisDetector
from clip_fewshot.novelty.rows import keep_distinct, split_left_out
from clip_fewshot.probes.checked import check_fitted, checked, checked_rows
from clip_fewshot.types import FloatArray, IndexArray

RANK_REFITS = 64  # rows up to which each is left out by itself; above, a twentieth of every class is


class RankAverageDetector(LateDecision, BaseEstimator):  # type: ignore[misc]
    """The mean over detectors of where an image ranks among the known ones, in (0, 1).

    Scores of different detectors have no common unit; ranks do (Borda's count; van Erp, Schomaker, "Variants of the
    Borda Count Method for Combining Ranked Classifier Hypotheses", 2000). A rank is taken among the leave-one-out
    scores of the known images, never among the images that are judged, so that an image's score is its own.

    Args:
        members: detectors to be fitted; None: nearest neighbours and Mahalanobis, which need no classes.

    Attributes:
        members_: the fitted detectors. kept_: (m,) places of the distinct rows in ``X``.
        loo_scores_: (m,) score of each kept row under members and ranks without it: m refits, because ranks too
            are learned from the row. Above 64 rows 20 refits, each without a twentieth of every class.
        offset_: see :func:`clip_fewshot.novelty.base.own_offset`.
    """

    parts: ClassVar[Mapping[str, type[Detector]]]  # the registry: names by which members are written down
    members_: tuple[Detector, ...]
    _known: tuple[FloatArray, NDArray[Any]]

    def __init__(self, members: Sequence[Detector] | None = None) -> None:
        self.members = members

    def fit(self, X: FloatArray, y: NDArray[Any] | None = None) -> RankAverageDetector:
        """Learn from (n, d) features of known images; ``y``: their classes, which some members need.

        Raises:
            UsageError: no members, or what a member refuses.
        """
        X, y = checked(self, X, y)
        members = [KNNDetector(), MahalanobisDetector()] if self.members is None else self.members
        if not members:
            raise UsageError(
                expected="1 member or more",
                got="none",
                fix="name some, or leave members out",
                where="RankAverageDetector",
            )
        self.members_ = _fitted(members, X, y)
        self.kept_ = keep_distinct(X).kept
        self._known, self._left_out = (X[self.kept_], y[self.kept_]), None
        sizes = np.unique(y[self.kept_], return_index=True, return_counts=True)[1:]
        for place in {int(sizes[0][find(sizes[1])]) for find in (np.argmin, np.argmax)}:
            self._fit_without(np.array([place]))  # what a member refuses once a row is gone, it refuses now
        return self

    def _fit_without(self, part: IndexArray) -> tuple[Detector, ...]:
        X, y = self._known
        return _fitted(self.members_, np.delete(X, part, axis=0), np.delete(y, part))

    def _score_left_out(self) -> FloatArray:
        X, y = self._known
        scores = np.empty(len(y))
        for part in split_left_out(np.unique(y, return_inverse=True)[1], RANK_REFITS):
            scores[part] = mean_rank(self._fit_without(part), X[part])
        return scores

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) in (0, 1); 1/2 is a typical known image."""
        X = checked_rows(self, X)
        return mean_rank(self.members_, X)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Those of the members, each with its name in bytes, and the leave-one-out scores."""
        check_fitted(self)
        arrays: dict[str, NDArray[Any]] = {"kept": self.kept_, "loo_scores": self.loo_scores_}
        for i, member in enumerate(self.members_):
            kind = next(name for name, part in self.parts.items() if part is type(member))
            arrays[f"{i}.kind"] = np.frombuffer(kind.encode(), dtype=np.uint8).copy()
            arrays |= {f"{i}.{k}": v for k, v in member.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> RankAverageDetector:
        """The detector that :meth:`to_arrays` came from."""
        members: list[Any] = []
        for i in range(sum(name.count(".") == 1 and name.endswith(".kind") for name in arrays)):
            own = {name.partition(".")[2]: value for name, value in arrays.items() if name.startswith(f"{i}.")}
            members.append(cls.parts[own.pop("kind").tobytes().decode()].from_arrays(own))
        detector = cls(members)
        detector.members_ = tuple(members)
        detector.kept_, detector._left_out = arrays["kept"], arrays["loo_scores"]
        detector.n_features_in_ = members[0].n_features_in_
        return detector


def mean_rank(members: Sequence[Detector], X: FloatArray) -> FloatArray:
    """(n,) mean over fitted members of the rank among their own leave-one-out scores."""
    return np.asarray(np.mean([rank_scores(m.loo_scores_, m.score_samples(X)) for m in members], axis=0))


def rank_scores(yardstick: FloatArray, scores: FloatArray) -> FloatArray:
    """(n,) in (0, 1): k / (m + 1) at the k-th smallest of (m,) yardstick scores, straight lines between them.

    Beyond its ends the rank goes on towards 0 and 1, by half of what is left at a distance of the yardstick's range:
    an image below all known ones still ranks above one far below, where plain ranks would tie.
    """
    ordered = np.sort(yardstick)
    first = np.flatnonzero(np.append(True, ordered[1:] > tie_range(ordered[:-1])[1]))  # of each set of ties
    values, counts = ordered[first], np.diff(first, append=len(ordered))
    ranks = (np.cumsum(counts) - (counts - 1) / 2) / (len(yardstick) + 1)  # of ties, the mean
    reach = values[-1] - values[0]
    reach = reach if reach > 0 else 1.0
    below = ranks[0] / (1 + np.maximum(values[0] - scores, 0) / reach)
    above = 1 - (1 - ranks[-1]) / (1 + np.maximum(scores - values[-1], 0) / reach)
    inside = np.interp(scores, values, ranks)
    return np.asarray(np.where(scores < values[0], below, np.where(scores > values[-1], above, inside)))


def _fitted(members: Sequence[Detector], X: FloatArray, y: NDArray[Any]) -> tuple[Detector, ...]:
    return tuple(clone(member).fit(X, y) for member in members)
