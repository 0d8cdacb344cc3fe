"""Cosines between images and texts, for detectors that learn from class names and not from images."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import normalize

from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.arrays import as_rows
from clip_fewshot.types import FloatArray


def check_texts(texts: FloatArray | None, what: str, n_features: int | None, where: str) -> FloatArray:
    """The (c, d) rows, of length 1; c >= 1.

    Args:
        n_features: d of the images; None: any.

    Raises:
        UsageError: none, not finite, or another d than the images'.
    """
    if texts is None:
        fix = "encode them with the text tower of the same model (encode_texts)"
        raise UsageError(expected=f"{what}, (rows, {n_features}) text features", got="none", fix=fix, where=where)
    rows = as_rows(texts, f"{where}: {what}").astype(np.float64)
    if not len(rows) or n_features not in (None, rows.shape[1]):
        fix = "encode them with the text tower of the same model"
        raise UsageError(
            expected=f"{what} of shape (rows, {n_features}), as the images'", got=f"{rows.shape}", fix=fix, where=where
        )
    return np.asarray(normalize(rows))
