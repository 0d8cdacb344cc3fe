"""What detectors that read the logits of a classifier have in common: a linear probe of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.preprocessing import normalize

from clip_fewshot.config.ranges import require_real
from clip_fewshot.errors import UsageError
from clip_fewshot.novelty.base import LateDecision
from clip_fewshot.novelty.log_odds import LOG_ODDS_KEY, read_log_odds
from clip_fewshot.novelty.rows import keep_distinct, number_classes, split_left_out
from clip_fewshot.probes.checked import check_fitted, checked, checked_rows
from clip_fewshot.probes.left_out import left_out_logits, refit_logits
from clip_fewshot.probes.logistic import LinearProbe
from clip_fewshot.types import FloatArray, LabelArray

PROBE_REFITS = 160  # rows up to which each is left out by itself; above, a twentieth of every class is

Fitted = TypeVar("Fitted", bound="ProbeDetector")
Guided = TypeVar("Guided", bound="GuidedDetector")


class ProbeDetector(LateDecision, BaseEstimator):  # type: ignore[misc]
    """A linear probe on (n, d) features, and a score of its logits that subclasses name.

    Args:
        C: of the probe, > 0. It is not searched, or every refit would need a search; 1 and 100 did as well on photos
            and digits, within .008 AUROC.

    Attributes:
        probe_: the :class:`LinearProbe`. kept_: (m,) places of the distinct rows in ``X``.
        loo_scores_: (m,) score of each kept row under the probe fitted without it: m refits, begun from the probe for
            all rows and solved side by side to the gap of a probe's own fit, which moves them by about 1e-3 of
            themselves. Above 160 rows there are 20 refits, each without a twentieth of every class: scores of rows
            left out all the same, of a probe with a little less to learn from.
        offset_: see :func:`clip_fewshot.novelty.base.own_offset`.
    """

    needs_classes: ClassVar[bool] = True

    _known: tuple[FloatArray, LabelArray]

    def __init__(self, C: float = 10.0) -> None:
        self.C = C

    @staticmethod
    def normality(logits: FloatArray) -> FloatArray:
        """(n, c) logits -> (n,) scores, higher = more normal; -inf is a class that there is not."""
        raise NotImplementedError

    def fit(self: Fitted, X: FloatArray, y: NDArray[Any] | None = None) -> Fitted:
        """Learn from (n, d) features of known images and their (n,) classes.

        Raises:
            UsageError: no classes, or fewer than two once any image is left out.
        """
        X, y = checked(self, X, y)
        require_real(self.C, "C", "(0, inf)", type(self).__name__)
        rows, name = keep_distinct(X), type(self).__name__
        self.kept_, labels = rows.kept, number_classes(y, rows)
        counts = np.bincount(labels)
        if len(counts) - (counts.min() == 1) < 2:
            got = f"{len(counts)}, of {counts.tolist()} distinct images"
            fix = "give y with more classes, or choose a detector that needs none, such as lof"
            raise UsageError(expected="2 classes or more whichever image is left out", got=got, fix=fix, where=name)
        self.probe_ = LinearProbe(C=self.C).fit(rows.distinct, labels)
        self._known, self._left_out = (rows.distinct, labels), None
        return self

    def _score_left_out(self) -> FloatArray:
        unit, labels = self._known
        parts = split_left_out(labels, PROBE_REFITS)
        return self.normality(left_out_logits(unit, labels, self.C, parts))

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c) of the probe, which sum to 0 over the classes."""
        logits = self.probe_.decision_function(X)
        return np.stack([-logits, logits], axis=1) / 2 if logits.ndim == 1 else np.asarray(logits)

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) normality by the probe's logits."""
        return self.normality(self.logits(checked_rows(self, X)))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The probe and the leave-one-out scores."""
        check_fitted(self)
        key = LOG_ODDS_KEY if self.in_log_odds else "loo_scores"
        return {**self.probe_.to_arrays(), "kept": self.kept_, key: self.loo_scores_}

    @classmethod
    def from_arrays(cls: type[Fitted], arrays: Mapping[str, NDArray[Any]]) -> Fitted:
        """The detector that :meth:`to_arrays` came from."""
        detector = cls(C=float(arrays["C"]))
        detector.probe_ = LinearProbe.from_arrays(arrays)
        detector.kept_ = arrays["kept"]
        detector._left_out = read_log_odds(arrays) if cls.in_log_odds else arrays["loo_scores"]
        detector.n_features_in_ = arrays["coef"].shape[1]
        return detector


class GuidedDetector(ProbeDetector):
    """A linear probe, what subclasses learn of its rows, and a score of both.

    Attributes:
        guide_: what :meth:`learn_rows` found. The others, and the arguments: as of :class:`ProbeDetector`;
            ``loo_scores_`` learn from the other rows alone what the rows say too.
    """

    guide_: dict[str, FloatArray]

    @staticmethod
    def learn_rows(unit: FloatArray, logits: FloatArray) -> dict[str, FloatArray]:
        """Arrays from (n, d) known rows of length 1 and their (n, c) logits; -inf is a class that there is not."""
        raise NotImplementedError

    @staticmethod
    def judge_rows(guide: Mapping[str, FloatArray], unit: FloatArray, logits: FloatArray) -> FloatArray:
        """(m,) scores of (m, d) rows of length 1 with (m, c) logits, higher = more normal."""
        raise NotImplementedError

    def fit(self: Guided, X: FloatArray, y: NDArray[Any] | None = None) -> Guided:
        """As :meth:`ProbeDetector.fit`."""
        super().fit(X, y)
        unit, _ = self._known
        self.guide_ = self.learn_rows(unit, self.logits(unit))
        return self

    def _score_left_out(self) -> FloatArray:
        unit, labels = self._known
        # Turned into the space that the rows span, where angles are the same and a refit is small.
        turned = unit @ np.linalg.svd(unit, full_matrices=False)[2].T
        scores = np.empty(len(unit))
        for part, logits in refit_logits(unit, labels, self.C, split_left_out(labels, PROBE_REFITS)):
            guide = self.learn_rows(np.delete(turned, part, axis=0), np.delete(logits, part, axis=0))
            scores[part] = self.judge_rows(guide, turned[part], logits[part])
        return scores

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) normality by the probe's logits and by the rows."""
        X = checked_rows(self, X)
        return self.judge_rows(self.guide_, normalize(X), self.logits(X))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The probe, what was learned of the rows, and the leave-one-out scores."""
        arrays = super().to_arrays()
        return arrays | {f"guide.{name}": value for name, value in self.guide_.items()}

    @classmethod
    def from_arrays(cls: type[Guided], arrays: Mapping[str, NDArray[Any]]) -> Guided:
        """The detector that :meth:`to_arrays` came from."""
        detector = super().from_arrays(arrays)
        guide = {name.partition(".")[2]: value for name, value in arrays.items() if name.startswith("guide.")}
        detector.guide_ = guide
        return detector
