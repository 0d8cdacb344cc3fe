"""Pictures that were called unknown and have no name yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.errors import UsageError
from clip_fewshot.types import FloatArray


class UnknownPictures(NamedTuple):
    """Pictures that were called unknown, their (n, d) frozen features and (n,) p-values."""

    pictures: ImageDataset
    features: FloatArray
    p_values: FloatArray


def join_unknown(parts: Sequence[UnknownPictures]) -> UnknownPictures:
    """All of them.

    Raises:
        UsageError: not one picture.
    """
    if not any(len(part.pictures) for part in parts):
        raise UsageError(
            expected="pictures that were called unknown",
            got="none",
            fix="predict some pictures first",
            where="discover",
        )
    pictures, features, p = zip(*parts, strict=True)
    return UnknownPictures(join_images(pictures), np.concatenate(features), np.concatenate(p))


def drop_pictures(part: UnknownPictures, digests: Collection[str]) -> UnknownPictures:
    """Those of other pictures."""
    rows = np.flatnonzero([digest not in digests for digest in part.pictures.digests])
    return UnknownPictures(part.pictures.subset(rows), part.features[rows], part.p_values[rows])
