"""Cosines between images and texts, for detectors that learn from class names and not from images."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import normalize

from clip_fewshot.errors import UsageError
from clip_fewshot.types import FloatArray


def check_texts(texts: FloatArray | None, what: str, n_features: int, where: str) -> FloatArray:
    """The (c, d) rows, of length 1.

    Raises:
        UsageError: none, not finite, or another d than the images'.
    """
    if texts is None:
        fix = "encode them with the text tower of the same model (encode_texts)"
        raise UsageError(expected=f"{what}, (rows, {n_features}) text features", got="none", fix=fix, where=where)
    rows = np.asarray(texts, dtype=np.float64)
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != n_features:
        fix = "encode them with the text tower of the same model"
        raise UsageError(
            expected=f"{what} of shape (rows, {n_features}), as the images'", got=f"{rows.shape}", fix=fix, where=where
        )
    if not np.isfinite(rows).all():
        raise UsageError(expected=f"finite {what}", got="nan or inf", fix="encode them again", where=where)
    return np.asarray(normalize(rows))
