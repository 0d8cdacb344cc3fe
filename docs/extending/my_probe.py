"""A probe: minus the squared distance to the mean of each class."""

import numpy as np
from scipy.spatial.distance import cdist

from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.approach import Approach
from clip_fewshot.geometry import unit_rows
from clip_fewshot.probes.base import FromLogits, append_class


class NearestMean(FromLogits):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise UsageError(expected="2 classes or more", got="1", fix="add pictures of another class")
        self.means_ = np.array([unit_rows(X[y == label]).mean(axis=0) for label in self.classes_])
        return self

    def logits(self, X):
        return -cdist(unit_rows(X), self.means_, "sqeuclidean")

    def extend(self, X, label, known=None):
        means = np.vstack([self.means_, unit_rows(X).mean(axis=0)])
        return self.from_arrays({"classes": append_class(self.classes_, label), "means": means})


NEAREST_MEAN = Approach("nearest-mean", towers="none", ends_in="probe", probe=NearestMean)
