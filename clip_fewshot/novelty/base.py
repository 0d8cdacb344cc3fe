"""What a novelty detector is, and the sign of its scores: scikit-learn's, higher = more normal, -1 = novel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OutlierMixin

from clip_fewshot.runtime.learned import LearnedArrays
from clip_fewshot.types import FloatArray, IndexArray

OWN_RATE = 0.05  # share of the training images that predict() would call novel if it had not seen them


class Detector(Protocol):
    """Fitted on (n, d) features of known images alone; scores new ones.

    A detector of your own is a class that takes its options as keywords, each with a default; the library's own begin
    from :class:`OwnDecision`, which has defaults of all that follows but ``fit`` and ``score_samples``. Checked by
    :func:`clip_fewshot.testing.check_detector`.

    Class attributes:
        needs_classes: ``fit`` refuses features without classes.
        needs_texts: constructor arguments that are text features: "concepts" (of the class names), "negatives" (of
            words for everything else), or none. One that has no ``scheme`` learns from no image.
        neighbourly: the constructor takes ``n_neighbors``, an upper limit, which is chosen with the detector.
        at_depth: it is also offered what enters the last block beside the features of the whole tower; texts get zeros.
        scheme: how the images that it learns from calibrate it too, see :mod:`clip_fewshot.conformal.schemes`: "full"
            (exact; a fit per new image and class), "leave-one-out" (a fit per known image, or one), or None: neither is
            worth its price, and folds are held out.

    Attributes:
        kept_: (m,) places in ``X`` of the distinct rows: the same picture twice counts once.
        loo_scores_: (m,) score of each kept row under the detector fitted on the other kept rows: what a known image
            scores when it is new, and fit to calibrate with.
        offset_: where :meth:`predict` decides, see :func:`own_offset`.

    Example:
        >>> import numpy as np
        >>> import clip_fewshot as cf
        >>> known = np.random.default_rng(0).normal([8, 0, 0], 1, size=(50, 3))
        >>> detector: cf.Detector = cf.DETECTORS["knn"]().fit(known)
        >>> detector.predict(np.array([[8, 0, 0], [0, 0, 8.0]])).tolist()
        [1, -1]
    """

    needs_classes: ClassVar[bool]
    needs_texts: ClassVar[tuple[str, ...]]
    neighbourly: ClassVar[bool]
    at_depth: ClassVar[bool]
    scheme: ClassVar[str | None]
    kept_: IndexArray
    offset_: float

    @property
    def loo_scores_(self) -> FloatArray:
        """(m,) leave-one-out scores of the kept rows."""
        ...

    def fit(self, X: FloatArray, y: NDArray[np.generic] | None = None) -> Detector:
        """Learn what is normal; ``y`` are the known classes, for detectors that use them."""

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) normality, higher = more normal. Not for the images of ``fit``: they know themselves too well."""

    def predict(self, X: FloatArray) -> NDArray[np.int64]:
        """(n,) +1 normal, -1 novel, at the detector's own ``offset_``; a chosen false-alarm rate needs conformal."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that was learned, as arrays of numbers."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Detector:
        """The detector that :meth:`to_arrays` came from, to the last bit."""


class LeavesOut(Detector, Protocol):
    """A detector that needs no refit to know what it would say of new images without any one of its own.

    Whose class has no ``score_without`` in its own body is refitted: a class that is derived may score otherwise.
    """

    def fit(self, X: FloatArray, y: NDArray[np.generic] | None = None) -> LeavesOut:
        """As of :class:`Detector`."""

    def score_without(self, X: FloatArray) -> FloatArray:
        """(m, n) scores of (m, d) images under the detector fitted without each of the n kept rows; after ``fit``."""


class OwnDecision(LearnedArrays, OutlierMixin):  # type: ignore[misc]
    """scikit-learn's two ways to decide, from ``score_samples`` and ``offset_``; and what is true of most detectors."""

    needs_classes: ClassVar[bool] = False
    needs_texts: ClassVar[tuple[str, ...]] = ()
    neighbourly: ClassVar[bool] = False
    at_depth: ClassVar[bool] = False
    scheme: ClassVar[str | None] = None
    in_log_odds: ClassVar[bool] = False  # what an earlier release scored as a probability
    offset_: float

    def score_samples(self, X: FloatArray) -> FloatArray:
        """(n,) normality, higher = more normal."""
        raise NotImplementedError

    def decision_function(self, X: FloatArray) -> FloatArray:
        """(n,) :meth:`score_samples` less ``offset_``: negative is novel."""
        return np.asarray(self.score_samples(X) - self.offset_)

    def predict(self, X: FloatArray) -> NDArray[np.int64]:
        """(n,) +1 normal, -1 novel."""
        return np.where(self.decision_function(X) < 0, -1, 1)


class LateDecision(OwnDecision):
    """The same where leave-one-out scores take many fits: they are found when they are first asked for."""

    _left_out: FloatArray | None

    @property
    def loo_scores_(self) -> FloatArray:
        """(m,) see the class; choosing among detectors never asks for them."""
        if self._left_out is None:
            self._left_out = self._score_left_out()
        return self._left_out

    @property
    def offset_(self) -> float:  # type: ignore[override]
        """Where :meth:`predict` decides."""
        return own_offset(self.loo_scores_)

    def _score_left_out(self) -> FloatArray:
        raise NotImplementedError


def needs_no_refits(detector: Detector) -> TypeGuard[LeavesOut]:
    """Whether it is one of :class:`LeavesOut`."""
    return "score_without" in vars(type(detector))


def own_offset(loo_scores: FloatArray) -> float:
    """The lowest 5 % of (m,) leave-one-out scores lie below it; with fewer than 39 rows, none.

    For a false-alarm rate of your choice use :mod:`clip_fewshot.conformal.p_values`.
    """
    lowest = max(1, int(OWN_RATE * (len(loo_scores) + 1)))
    return float(np.sort(loo_scores)[lowest - 1])
