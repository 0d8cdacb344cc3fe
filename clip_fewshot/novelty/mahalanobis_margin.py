"""How much nearer an image is to its nearest class than to the known classes on average."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import normalize

from clip_fewshot.neighbors.exact import find_nearest
from clip_fewshot.novelty.mahalanobis import MahalanobisDetector
from clip_fewshot.novelty.scatter import Scatter, WithAndWithout
from clip_fewshot.probes.checked import checked_rows
from clip_fewshot.types import FloatArray

AVERAGE_WEIGHT = 0.4


class MahalanobisMarginDetector(MahalanobisDetector):
    """Minus the squared Mahalanobis distance to the nearest class, plus .4 of the mean of those to all classes.

    Two known scores in one. With the weight 0 it is that of :class:`MahalanobisDetector`, which finds what is far from
    all classes. With the weight 1 it is how far the nearest class is ahead of the average one in a linear discriminant,
    as of :class:`~clip_fewshot.novelty.relative_mahalanobis.RelativeMahalanobisDetector` under one covariance, which
    finds what lies between the classes and is blind to all else. Between .3 and .6 it finds both:
    docs/figures/detectors.md.

    Args:
        shrinkage: share of the identity, in (0, 1]; None: half way from the estimate of
            :func:`clip_fewshot.novelty.scatter.estimate_shares` to 1. The estimate is the best for the covariance; the
            distance takes its inverse, of which a few shots say less.

    Attributes: those of :class:`MahalanobisDetector`.

    Example:
        >>> import numpy as np
        >>> import clip_fewshot as cf
        >>> y = np.repeat([0, 1], 20)
        >>> known = np.random.default_rng(0).normal(np.eye(3)[y] * 8, 1)
        >>> detector = cf.DETECTORS["mahalanobis-margin"]().fit(known, y)
        >>> detector.predict(np.array([[8, 0, 0], [6, 6, 0], [0, 0, 8.0]])).tolist()
        [1, -1, -1]
    """

    score_without = MahalanobisDetector.score_without

    def shares(self, found: Scatter) -> WithAndWithout:
        """The shares of the identity that the covariance of these rows takes."""
        shares = super().shares(found)
        return WithAndWithout(*((1 + share) / 2 for share in shares)) if self.shrinkage is None else shares

    @staticmethod
    def normality(squared: FloatArray) -> FloatArray:
        """(..., c) squared distances to the class means -> scores; infinite: a class that there is not."""
        average = np.mean(squared, axis=-1, where=np.isfinite(squared))
        return np.asarray(AVERAGE_WEIGHT * average - squared.min(axis=-1))

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) higher = more normal; the mean of the distances by way of the mean of the means, without (n, c)."""
        whitened = self.whiten(normalize(checked_rows(self, X)))
        centre = self.means_.mean(axis=0)
        spread = ((self.means_ - centre) ** 2).sum(axis=1).mean()
        average = ((whitened - centre) ** 2).sum(axis=1) + spread
        nearest = find_nearest(self.means_, whitened, 1).distances[:, 0]
        return np.asarray(AVERAGE_WEIGHT * average - nearest**2)
