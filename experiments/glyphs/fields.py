"""Distance fields: how a glyph is stored so that any size, thickness and blur can be drawn from it later.

A field is (FIELD, FIELD) uint8 over the square [-1, 1]^2; the glyph's longer side spans [-BODY, BODY]. The value is
the signed distance to the edge of the ink, positive inside, in units of the square's half side, clipped to +-REACH.
A sampled distance, unlike a sampled mask, stays sharp when enlarged and can be thickened by adding a number.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, zoom
from scipy.spatial import KDTree

FIELD = 40
BODY = 0.8
REACH = 0.4

FloatArray = NDArray[np.float64]
Field = NDArray[np.uint8]

_AXIS = (np.arange(FIELD) + 0.5) / FIELD * 2 - 1
_PIXELS = np.stack(np.meshgrid(_AXIS, _AXIS), axis=-1).reshape(-1, 2)


def encode(distance: FloatArray) -> Field:
    """Signed distance -> its stored form."""
    return np.round((np.clip(distance / REACH, -1, 1) + 1) * 127.5).astype(np.uint8)


def fit(points: FloatArray) -> FloatArray:
    """(m, 2) points moved and scaled, shape kept, so that they fill the body of the square."""
    low, high = points.min(axis=0), points.max(axis=0)
    fitted: FloatArray = (points - (low + high) / 2) * (2 * BODY / max(float((high - low).max()), 1e-6))
    return fitted


def field_of_lines(points: FloatArray, half_width: float) -> Field:
    """Field of a pen of the given half width that passed over dense (m, 2) points in [-1, 1]^2."""
    distance, _ = KDTree(points).query(_PIXELS, distance_upper_bound=REACH + half_width)
    return encode(half_width - np.minimum(distance, 2.0).reshape(FIELD, FIELD))


def field_of_mask(mask: NDArray[np.bool_]) -> Field:
    """Field of a (s, s) picture of ink that covers the square [-1, 1]^2."""
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    distance = (inside - outside) * (2.0 / len(mask))
    return encode(zoom(distance, FIELD / len(mask), order=1, grid_mode=True, mode="nearest"))
