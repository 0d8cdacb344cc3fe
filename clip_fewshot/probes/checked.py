"""The door of detectors and probes: scikit-learn's checks of X and y, in this library's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from clip_fewshot.errors import ClipFewShotError, UsageError
from clip_fewshot.runtime.arrays import check_finite, without_torch
from clip_fewshot.types import FloatArray


class WrongTypeError(UsageError, TypeError):
    """What scikit-learn's callers catch as a TypeError: objects and sparse matrices for features."""


class UnfittedError(UsageError, NotFittedError):  # type: ignore[misc]
    """What scikit-learn's callers catch as its NotFittedError."""


def checked(estimator: Any, X: Any, y: Any = None) -> tuple[FloatArray, NDArray[Any]]:
    """(n, d) finite float64 features and their (n,) labels, for the ``fit`` of ``estimator``.

    Any array, list, frame or tensor. Without ``y`` all are of one class, 0, if the estimator can do without.

    Raises:
        UsageError: other shapes, other lengths, NaN or infinity, no rows, labels that are no classes.
    """
    with _own_errors(estimator):
        if y is None:
            rows = validate_data(estimator, without_torch(X), None, dtype=np.float64)
            check_finite(rows, type(estimator).__name__)
            return rows, np.zeros(len(rows), dtype=np.int64)
        if _is_plain(estimator, X) and type(y) is np.ndarray and y.dtype.kind in "iuU" and y.shape == X.shape[:1]:
            estimator.n_features_in_, rows, labels = X.shape[1], X, y
        else:
            rows, labels = validate_data(estimator, without_torch(X), without_torch(y), dtype=np.float64)
        check_finite(rows, type(estimator).__name__)
        if labels.dtype.kind not in "biuU":  # of 20 pictures of 20 classes it warns
            check_classification_targets(labels)
        return rows, labels


def checked_rows(estimator: Any, X: Any) -> FloatArray:
    """(n, d) finite float64 features that a fitted ``estimator`` is asked about, as wide as those of its fit.

    Raises:
        UsageError: another shape, NaN or infinity, no rows, or nothing was fitted.
    """
    check_fitted(estimator)
    with _own_errors(estimator):
        plain = _is_plain(estimator, X) and X.shape[1] == estimator.n_features_in_
        rows: FloatArray = X if plain else validate_data(estimator, without_torch(X), dtype=np.float64, reset=False)
        check_finite(rows, type(estimator).__name__)
        return rows


def check_fitted(estimator: Any) -> None:
    """Refuse to answer before ``fit``.

    Raises:
        UnfittedError: nothing was learned.
    """
    try:
        check_is_fitted(estimator)
    except NotFittedError as error:
        name = type(estimator).__name__
        raise UnfittedError(expected="a fitted estimator", got="one without fit", fix="call fit", where=name) from error


def _is_plain(estimator: Any, X: Any) -> bool:
    """Whether scikit-learn's checks would find nothing to do: they take .3 ms, more than a small detector's scores."""
    plain = type(X) is np.ndarray and X.dtype == np.float64 and X.ndim == 2 and X.size > 0
    return plain and not hasattr(estimator, "feature_names_in_")


@contextmanager
def _own_errors(estimator: Any) -> Iterator[None]:
    name = type(estimator).__name__
    try:
        yield
    except ClipFewShotError:
        raise
    except (ValueError, TypeError) as error:
        kind = WrongTypeError if isinstance(error, TypeError) else UsageError
        expected = "finite features (n, d), n >= 1, and one class label for each row"
        said = str(error).strip().splitlines()
        fix = next((line for line in said if line.startswith("Reshape")), "check what made X and y").rstrip(".")
        raise kind(expected=expected, got=said[0].rstrip(".:"), fix=fix, where=name) from error
