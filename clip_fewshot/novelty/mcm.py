"""How much better the best class name fits an image than the other names do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.preprocessing import normalize

from clip_fewshot.config.ranges import require_real
from clip_fewshot.errors import UsageError
from clip_fewshot.novelty.base import OwnDecision, own_offset
from clip_fewshot.novelty.log_odds import LOG_ODDS_KEY, measure_log_odds, read_log_odds
from clip_fewshot.novelty.rows import keep_distinct
from clip_fewshot.novelty.textual import check_texts
from clip_fewshot.probes.checked import check_fitted, checked, checked_rows
from clip_fewshot.types import FloatArray


class MCMDetector(OwnDecision, BaseEstimator):  # type: ignore[misc]
    """The largest softmax probability of the cosines between an image and the class names, as log-odds.

    Ming, Cai, Gu, Sun, Li, Li, "Delving into Out-of-Distribution Detection with Vision-Language Representations",
    2022, eq. 2 (maximum concept matching); why log-odds: :mod:`clip_fewshot.novelty.log_odds`. No image takes part in
    it: ``fit`` keeps what to calibrate with.

    Args:
        concepts: (c, d) text features of the known classes, in the space of the images; c >= 2.
        temperature: > 0, by which cosines are divided; the paper's 1.

    Attributes:
        kept_: (m,) places of the distinct rows in ``X``. loo_scores_: (m,) their scores; a refit without a row is the
            same detector. offset_: see :func:`clip_fewshot.novelty.base.own_offset`. concepts_: of length 1.
    """

    needs_texts: ClassVar[tuple[str, ...]] = ("concepts",)
    in_log_odds: ClassVar[bool] = True

    def __init__(self, concepts: FloatArray | None = None, temperature: float = 1.0) -> None:
        self.concepts = concepts
        self.temperature = temperature

    def fit(self, X: FloatArray, y: NDArray[Any] | None = None) -> MCMDetector:
        """Score (n, d) features of known images; ``y`` is ignored.

        Raises:
            UsageError: concepts that are missing, of another width or fewer than two; a temperature of 0 or less.
        """
        X, y = checked(self, X, y)
        self.concepts_ = check_texts(self.concepts, "concepts", X.shape[1], "MCMDetector")
        require_real(self.temperature, "a temperature", "(0, inf)", "MCMDetector")
        if len(self.concepts_) < 2:
            got, fix = f"{len(self.concepts_)}", "give the names of all known classes, or use negative-labels"
            raise UsageError(expected="2 concepts or more", got=got, fix=fix, where="MCMDetector")
        rows = keep_distinct(X)
        self.kept_, self.loo_scores_ = rows.kept, self._normality(rows.distinct)
        self.offset_ = own_offset(self.loo_scores_)
        return self

    def _normality(self, unit: FloatArray) -> FloatArray:
        return measure_log_odds(unit @ self.concepts_.T / self.temperature)

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) at least -ln(c - 1)."""
        return self._normality(normalize(checked_rows(self, X)))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Concepts, temperature and the scores to calibrate with."""
        check_fitted(self)
        temperature = np.array([self.temperature], dtype=np.float64)
        own = {"kept": self.kept_, LOG_ODDS_KEY: self.loo_scores_}
        return {"concepts": self.concepts_, "temperature": temperature, **own}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> MCMDetector:
        """The detector that :meth:`to_arrays` came from."""
        detector = cls(arrays["concepts"], float(arrays["temperature"][0]))
        detector.concepts_, detector.n_features_in_ = arrays["concepts"], arrays["concepts"].shape[1]
        detector.kept_, detector.loo_scores_ = arrays["kept"], read_log_odds(arrays)
        detector.offset_ = own_offset(detector.loo_scores_)
        return detector
