"""What a fit has learned as plain arrays, for parts that have nothing else to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Fitted = TypeVar("Fitted", bound="LearnedArrays")


class LearnedArrays:
    """``to_arrays`` and ``from_arrays`` of a class whose ``fit`` leaves arrays and numbers in attributes ``NAME_``.

    Options of the constructor are not kept: what is needed after the fit is such an attribute too.
    """

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All that was learned, by name without the ``_``."""
        learned = {name[:-1]: np.asarray(value) for name, value in vars(self).items() if name.endswith("_")}
        return {name: array.astype(str) if array.dtype == object else array for name, array in learned.items()}

    @classmethod
    def from_arrays(cls: type[Fitted], arrays: Mapping[str, NDArray[Any]]) -> Fitted:
        """The object that :meth:`to_arrays` came from, to the last bit."""
        fitted = cls()
        for name, array in arrays.items():
            setattr(fitted, f"{name}_", array.item() if array.ndim == 0 else array)
        return fitted
