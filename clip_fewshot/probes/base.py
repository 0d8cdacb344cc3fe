"""What a probe is that can learn a further class, and what follows from its logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp, softmax

from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.learned import LearnedArrays
from clip_fewshot.types import FloatArray


class Probe(Protocol):
    """A classifier on (n, d) features.

    A probe of your own is a class that takes its options as keywords, each with a default; :class:`FromLogits` has the
    rest where ``logits`` are there. Checked by :func:`clip_fewshot.testing.check_probe`.

    Class attributes:
        takes_c: the constructor takes ``C``, the inverse strength of a penalty; on tuned features it is given the one
            that was best on frozen ones.

    Attributes:
        classes_: (c,) labels: those of the fit sorted, then each one that was added.

    Example:
        >>> import numpy as np
        >>> import clip_fewshot as cf
        >>> probe: cf.Probe = cf.PROBES["prototype"]().fit(np.eye(4), np.array(["a", "a", "b", "b"]))
        >>> probe.logits(np.eye(4)).shape
        (4, 2)
    """

    takes_c: ClassVar[bool]
    classes_: NDArray[Any]

    def fit(self, X: FloatArray, y: NDArray[Any]) -> Probe:
        """Learn from (n, d) features and (n,) labels of at least two classes."""

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``."""

    def predict_proba(self, X: FloatArray) -> FloatArray:
        """(n, c) probabilities, columns as ``classes_``."""

    def extend(self, X: FloatArray, label: Any, known: FloatArray | None = None) -> Probe:
        """A probe that knows the class ``label`` too; the logits of the classes before it are the same bytes.

        Args:
            X: (m, d) features of pictures of the new class.
            label: its name or number, not one of ``classes_``.
            known: (n, d) features of pictures of the classes before, for probes that weigh one class against another.
        """

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that was learned, as arrays."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Probe:
        """The probe that :meth:`to_arrays` came from, to the last bit."""


@runtime_checkable
class NameProbe(Protocol):
    """A probe whose ``extend`` takes a text and no pictures: until they come, the class is known by its name."""

    def without(self, label: Any) -> Probe:
        """A probe that does not know ``label``, a class that was added; the logits of the others are the same bytes.

        Raises:
            UsageError: a class of the fit, on which the others depend, or one that it does not know.
        """


class FromLogits(LearnedArrays):
    """scikit-learn's three ways to ask, from ``logits`` and ``classes_``; and what is true of most probes."""

    takes_c: ClassVar[bool] = False
    classes_: NDArray[Any]
    _draws: FloatArray | None = None  # (m, n, c) left-out logits, m times over where they are drawn

    def logits(self, X: FloatArray) -> FloatArray:
        """(n, c), columns as ``classes_``."""
        raise NotImplementedError

    def decision_function(self, X: FloatArray) -> FloatArray:
        """(n, c) logits; (n,) for two classes, positive for ``classes_[1]``."""
        logits = self.logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: FloatArray) -> FloatArray:
        """(n, c) class probabilities, columns as ``classes_``."""
        return np.asarray(softmax(self.logits(X), axis=1))

    def predict(self, X: FloatArray) -> NDArray[Any]:
        """(n,) labels out of ``classes_``."""
        best = self.logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def left_out_logits(self) -> FloatArray | None:
        """(n, c) logits of each picture of the fit as if it had not been seen; None where that has no closed form.

        In the order of the rows of the fit, and only on the probe that was fitted: they are not kept in files.
        """
        if self._draws is None or len(self._draws) == 1:
            return None if self._draws is None else self._draws[0]
        return np.asarray(logsumexp(log_softmax(self._draws, axis=2), axis=0))


def append_class(classes: NDArray[Any], label: Any) -> NDArray[Any]:
    """``classes`` and, at their end, ``label``."""
    if label in classes.tolist():
        fix = "choose another name, or fit again with its pictures"
        raise UsageError(expected="a class that the probe does not know", got=repr(label), fix=fix, where="label")
    return np.append(classes, np.array([label], dtype=None if classes.dtype.kind in "US" else classes.dtype))


def find_added(classes: NDArray[Any], label: Any, together: int) -> int:
    """The place of a class that came after the first ``together``.

    Raises:
        UsageError: one of the first, on which the others depend, or one that is not there.
    """
    places = np.flatnonzero(classes == label)
    if not len(places) or places[0] < together:
        fix = "fit again without its pictures"
        raise UsageError(expected="a class that was added", got=repr(label), fix=fix, where="without")
    return int(places[0])


def multiply_rows(unit: FloatArray, coef: FloatArray, intercept: FloatArray, together: int) -> FloatArray:
    """(n, c) products of (n, d) rows with (c, d) coefficients, plus (c,) intercepts.

    Each row of coefficients after the first ``together`` is multiplied by itself: it was added later, and one product
    with the others could change how those round.
    """
    parts = [slice(together), *(slice(i, i + 1) for i in range(together, len(coef)))]
    return np.hstack([unit @ coef[part].T + intercept[part] for part in parts])
