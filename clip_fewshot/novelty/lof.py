"""Local outlier factor on features, safe with duplicates and few images, with leave-one-out scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_is_fitted, validate_data

from clip_fewshot.errors import UsageError
from clip_fewshot.novelty.neighbours import distinct, nearest
from clip_fewshot.types import FloatArray, IndexArray

OWN_RATE = 0.05  # share of the training images that predict() would call novel if it had not seen them


class LOFDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """How much sparser the surroundings of a point are than those of its k nearest known neighbours.

    Breunig, Kriegel, Ng, Sander, "LOF: Identifying Density-Based Local Outliers", 2000, definitions 5 to 7; equal to
    scikit-learn's ``LocalOutlierFactor(novelty=True)`` on the rows it is fitted on. Rows are L2-normalised first:
    CLIP's features are compared by angle, and their length says more of contrast and clutter than of content.

    Two things are different, both because scikit-learn is silent about them. The same picture twice counts once: with
    more copies than neighbours their density is infinite and every ordinary neighbour an outlier by a factor of
    millions. And the neighbours stay below half of the distinct rows and, where ``y`` is given, two below the images
    of the smallest class, so that each image has its neighbours in its own class even when one of them is left out:
    with neighbours in other classes the score falls to chance, and leave-one-out scores no longer speak for new images.

    Args:
        n_neighbors: k, >= 1, an upper limit.

    Attributes:
        n_neighbors_: the k used.
        rows_: (m, d) distinct normalised rows. kept_: (m,) their places in ``X``.
        loo_scores_: (m,) score of each kept row under the detector without it: what a known image scores when it is
            new, hence fit to calibrate with. The same as m refits, from one pass over the neighbours.
        offset_: :meth:`predict` calls novel what scores below the lowest 5 % of ``loo_scores_``; with fewer than 19
            rows, below all of them. For a false-alarm rate of your choice use :mod:`clip_fewshot.novelty.conformal`.
    """

    def __init__(self, n_neighbors: int = 20) -> None:
        self.n_neighbors = n_neighbors

    def fit(self, X: FloatArray, y: NDArray[Any] | None = None) -> LOFDetector:
        """Learn from (n, d) features of known images, at least three of them distinct; ``y``: their classes.

        Raises:
            UsageError: fewer than three distinct rows, or k < 1.
        """
        X = validate_data(self, X, dtype=np.float64)
        if self.n_neighbors < 1:
            raise UsageError("n_neighbors >= 1", str(self.n_neighbors), "choose 1 or more", "LOFDetector")
        unit = normalize(X)
        self.kept_ = distinct(unit)
        self.rows_ = unit[self.kept_]
        if len(self.rows_) < 3:
            got = f"{len(self.rows_)} (n_samples = {len(X)}, n_features = {X.shape[1]})"
            raise UsageError("3 distinct rows or more", got, "add images", "LOFDetector")
        self.n_neighbors_ = min(self.n_neighbors, (len(self.rows_) - 1) // 2)
        if y is not None:
            smallest = int(np.unique(np.asarray(y)[self.kept_], return_counts=True)[1].min())
            self.n_neighbors_ = max(1, min(self.n_neighbors_, smallest - 2))
        self._learn()
        return self

    def _learn(self) -> None:
        """Densities of ``rows_``, and the decision from their leave-one-out scores."""
        k = self.n_neighbors_
        distances, neighbours = nearest(self.rows_, self.rows_, k + 2)
        distances, neighbours = distances[:, 1:], neighbours[:, 1:]  # the nearest is the row itself
        self.k_distance_ = distances[:, k - 1]
        self.density_ = 1 / np.maximum(distances[:, :k], self.k_distance_[neighbours[:, :k]]).mean(axis=1)
        self.loo_scores_ = leave_one_out(distances, neighbours)
        lowest = max(1, int(OWN_RATE * (len(self.rows_) + 1)))
        self.offset_ = float(np.sort(self.loo_scores_)[lowest - 1])

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) minus the outlier factor: about -1 inside a class, lower outside."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        distances, neighbours = nearest(self.rows_, normalize(X), self.n_neighbors_)
        reach = np.maximum(distances, self.k_distance_[neighbours]).mean(axis=1)
        return np.asarray(-self.density_[neighbours].mean(axis=1) * reach)

    def decision_function(self, X: FloatArray) -> FloatArray:
        """(n,) :meth:`score_samples` less ``offset_``: negative is novel."""
        return np.asarray(self.score_samples(X) - self.offset_)

    def predict(self, X: FloatArray) -> NDArray[np.int64]:
        """(n,) +1 normal, -1 novel."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The rows and k: all else follows from them, to the last bit."""
        check_is_fitted(self)
        return {"rows": self.rows_, "kept": self.kept_, "n_neighbors": np.array([self.n_neighbors_])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> LOFDetector:
        """The detector that :meth:`to_arrays` came from."""
        detector = cls(n_neighbors=int(arrays["n_neighbors"][0]))
        detector.rows_, detector.kept_ = arrays["rows"], arrays["kept"]
        detector.n_neighbors_, detector.n_features_in_ = detector.n_neighbors, arrays["rows"].shape[1]
        detector._learn()
        return detector


def leave_one_out(distances: FloatArray, neighbours: IndexArray) -> FloatArray:
    """(n,) LOF scores of each row under all the others, from the (n, k + 1) nearest other rows of each.

    Without row i, a row that had i among its k nearest has its (k + 1)-th instead; nothing else changes.
    """
    k = distances.shape[1] - 1
    own = np.arange(len(distances))[:, None]
    near = neighbours[:, :k]  # (n, k) the j around i
    around, between = neighbours[near], distances[near]  # (n, k, k + 1) the l around each j
    is_left_out = around == own[:, :, None]
    is_left_out[:, :, k] |= ~is_left_out.any(axis=2)  # of k + 1, the one that is i goes, or else the last
    around = around[~is_left_out].reshape(*near.shape, k)
    between = between[~is_left_out].reshape(*near.shape, k)

    pairs = (own * len(own) + near).ravel()  # (l, one of its k nearest) as one number

    def k_distance(rows: IndexArray) -> FloatArray:
        had_it = np.isin(rows * len(own) + own.reshape(-1, *[1] * (rows.ndim - 1)), pairs)
        return np.asarray(np.where(had_it, distances[rows, k], distances[rows, k - 1]))

    density = 1 / np.maximum(between, k_distance(around)).mean(axis=2)
    reach = np.maximum(distances[:, :k], k_distance(near)).mean(axis=1)
    return np.asarray(-density.mean(axis=1) * reach)
