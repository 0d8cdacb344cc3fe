"""Whether an image fits the class names better than it fits words far from all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logsumexp
from sklearn.base import BaseEstimator
from sklearn.preprocessing import normalize

from clip_fewshot.config.ranges import require_int, require_real
from clip_fewshot.novelty.base import OwnDecision, own_offset
from clip_fewshot.novelty.log_odds import LOG_ODDS_KEY, read_log_odds
from clip_fewshot.novelty.rows import keep_distinct
from clip_fewshot.novelty.textual import check_texts
from clip_fewshot.probes.checked import check_fitted, checked, checked_rows
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import FloatArray, IndexArray

NEAREST_SHARE = 0.05  # share of the concepts that count as a word's nearest


def mine_negatives(concepts: FloatArray, words: FloatArray, count: int) -> IndexArray:
    """(count,) row numbers of the words farthest from the concepts, farthest first.

    Jiang et al. 2024, section 3.1 (NegMining): a word is as near as its cosine to the nearest 5 % of the concepts,
    by the quantile and not the maximum, so that one class name which is near everything does not decide alone.

    Args:
        concepts: (c, d) text features of the known classes. words: (m, d) text features of a word list.
        count: at most m.
    """
    concepts = check_texts(concepts, "concepts", None, "mine_negatives")
    words = check_texts(words, "words", concepts.shape[1], "mine_negatives")
    require_int(count, "a count", 1, len(words), "mine_negatives")
    return np.asarray(np.argsort(np.quantile(words @ concepts.T, 1 - NEAREST_SHARE, axis=1), kind="stable")[:count])


class NegativeLabelsDetector(OwnDecision, BaseEstimator):  # type: ignore[misc]
    """The share of the known names in a softmax over known and negative names, the mean over groups of negatives.

    Jiang, Liu, Fang, Chen, Liu, Zheng, Han, "Negative Label Guided OOD Detection with Pretrained Vision-Language
    Models", 2024, eqs. 5 and 7, as log-odds: :mod:`clip_fewshot.novelty.log_odds`. No image takes part in it: ``fit``
    keeps what to calibrate with.

    Args:
        concepts: (c, d) text features of the known classes, in the space of the images.
        negatives: (m, d) text features of words that name none of them, see :func:`mine_negatives`.
        temperature: > 0, by which cosines are divided; the paper's 0.01 is that of OpenAI's models.
        groups: random groups of negatives, each with a softmax of its own; 100, or as many as there are negatives.
        seed: of the groups.

    Attributes:
        kept_: (m,) places of the distinct rows in ``X``. loo_scores_: (m,) their scores; a refit without a row is the
            same detector. offset_: see :func:`clip_fewshot.novelty.base.own_offset`.
        concepts_, negatives_: of length 1, the negatives in the order of their groups.
    """

    needs_texts: ClassVar[tuple[str, ...]] = ("concepts", "negatives")
    in_log_odds: ClassVar[bool] = True

    def __init__(
        self,
        concepts: FloatArray | None = None,
        negatives: FloatArray | None = None,
        temperature: float = 0.01,
        groups: int = 100,
        seed: int = 0,
    ) -> None:
        self.concepts = concepts
        self.negatives = negatives
        self.temperature = temperature
        self.groups = groups
        self.seed = seed

    def fit(self, X: FloatArray, y: NDArray[Any] | None = None) -> NegativeLabelsDetector:
        """Score (n, d) features of known images; ``y`` is ignored.

        Raises:
            UsageError: concepts or negatives that are missing or of another width; a temperature of 0 or less.
        """
        X, y = checked(self, X, y)
        where = "NegativeLabelsDetector"
        self.concepts_ = check_texts(self.concepts, "concepts", X.shape[1], where)
        negatives = check_texts(self.negatives, "negatives", X.shape[1], where)
        require_real(self.temperature, "a temperature", "(0, inf)", where)
        require_int(self.groups, "groups", where=where)
        self.negatives_ = negatives[generator(self.seed, "groups of negatives").permutation(len(negatives))]
        rows = keep_distinct(X)
        self.kept_, self.loo_scores_ = rows.kept, self._normality(rows.distinct)
        self.offset_ = own_offset(self.loo_scores_)
        return self

    def _normality(self, unit: FloatArray) -> FloatArray:
        known = logsumexp(unit @ self.concepts_.T / self.temperature, axis=1)
        against = unit @ self.negatives_.T / self.temperature
        parts = np.array_split(np.arange(len(self.negatives_)), min(self.groups, len(self.negatives_)))
        ahead = known - np.logaddexp.reduceat(against, [part[0] for part in parts], axis=1).T  # ln odds in each group
        return np.asarray(logsumexp(log_expit(ahead), axis=0) - logsumexp(log_expit(-ahead), axis=0))

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) log-odds of the mean share."""
        return self._normality(normalize(checked_rows(self, X)))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Concepts, negatives, options and the scores to calibrate with."""
        check_fitted(self)
        return {
            "concepts": self.concepts_,
            "negatives": self.negatives_,
            "options": np.array([self.temperature, self.groups], dtype=np.float64),
            "kept": self.kept_,
            LOG_ODDS_KEY: self.loo_scores_,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> NegativeLabelsDetector:
        """The detector that :meth:`to_arrays` came from."""
        temperature, groups = arrays["options"].tolist()
        detector = cls(arrays["concepts"], arrays["negatives"], temperature, int(groups))
        detector.concepts_, detector.negatives_ = arrays["concepts"], arrays["negatives"]
        detector.kept_, detector.loo_scores_ = arrays["kept"], read_log_odds(arrays)
        detector.offset_, detector.n_features_in_ = own_offset(detector.loo_scores_), arrays["concepts"].shape[1]
        return detector
