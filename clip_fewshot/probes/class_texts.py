"""The texts of classes as rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clip_fewshot.errors import UsageError
from clip_fewshot.geometry import unit_rows
from clip_fewshot.runtime.arrays import as_array, as_rows
from clip_fewshot.types import FloatArray

_FIX = "encode texts and pictures with one model"


def stack_texts(texts: Mapping[Any, FloatArray], classes: NDArray[Any], width: int) -> FloatArray:
    """(c, d) unit rows, one for each of ``classes``.

    Args:
        texts: (d,) features by label.
        width: d of the pictures.

    Raises:
        UsageError: a class without a text, or texts that another model made.
    """
    missing = [str(label) for label in classes.tolist() if label not in texts]
    if missing:
        fix = "give each class a text, or none"
        got = f"none for {', '.join(missing[:5])}"
        raise UsageError(expected="a text of each class", got=got, fix=fix, where="texts")
    rows = as_rows([as_array(texts[label], "texts") for label in classes.tolist()], "texts", width, _FIX)
    return unit_rows(rows.astype(np.float64))
