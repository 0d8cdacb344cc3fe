"""A detector: minus the distance to the nearest class mean."""

import numpy as np
from scipy.spatial.distance import cdist

from clip_fewshot.geometry import unit_rows
from clip_fewshot.novelty.base import OwnDecision, own_offset
from clip_fewshot.novelty.rows import few_rows_error, keep_distinct, number_classes


class NearestMeanDetector(OwnDecision):
    scheme = "leave-one-out"  # how the pictures that it learns from calibrate it too

    def fit(self, X, y=None):
        rows = keep_distinct(X)  # of length 1, each picture once
        labels = number_classes(np.zeros(len(X), int) if y is None else np.asarray(y), rows)
        counts = np.bincount(labels)[labels]
        if counts.min() < 2:
            raise few_rows_error("2 distinct pictures of each class", rows, "NearestMeanDetector")
        self.kept_, self.means_ = rows.kept, np.array([rows.distinct[labels == c].mean(axis=0) for c in set(labels)])
        far = cdist(rows.distinct, self.means_)
        far[np.arange(len(far)), labels] *= counts / (counts - 1)  # of each picture to its class without it
        self.loo_scores_ = -far.min(axis=1)
        self.offset_ = own_offset(self.loo_scores_)
        return self

    def score_samples(self, X):
        return -cdist(unit_rows(X), self.means_).min(axis=1)
