"""What a novelty detector is, and the sign of its scores: scikit-learn's, higher = more normal, -1 = novel."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clip_fewshot.types import FloatArray


class Detector(Protocol):
    """Fitted on (n, d) features of known images alone; scores new ones."""

    def fit(self, X: FloatArray, y: NDArray[np.generic] | None = None) -> Detector:
        """Learn what is normal; ``y`` are the known classes, for detectors that use them."""

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) normality, higher = more normal. Not for the images of ``fit``: they know themselves too well."""

    def predict(self, X: FloatArray) -> NDArray[np.int64]:
        """(n,) +1 normal, -1 novel, at the detector's own ``offset_``; a chosen false-alarm rate needs conformal."""
