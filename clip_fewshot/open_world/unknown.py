"""Pictures that are unknown, or may be, and have no name yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import number
from clip_fewshot.errors import UsageError
from clip_fewshot.types import BoolArray, FloatArray, IndexArray


class UnknownPictures(NamedTuple):
    """Pictures that were called unknown, and those that may be though they were given a class.

    Attributes:
        features: (n, d) of the untuned tower. p_values: (n,) as answered.
        answered: the class that each was given; None for unknown.
    """

    pictures: ImageDataset
    features: FloatArray
    p_values: FloatArray
    answered: tuple[str | None, ...]

    @property
    def unknown(self) -> BoolArray:
        """(n,) which were called unknown."""
        return np.array([name is None for name in self.answered], dtype=bool)

    def __repr__(self) -> str:
        return f"UnknownPictures({number(len(self.answered), 'picture')}, {self.unknown.sum():,} of them unknown)"

    def subset(self, rows: IndexArray) -> UnknownPictures:
        """The chosen ones."""
        answered = tuple(self.answered[int(i)] for i in rows)
        return UnknownPictures(self.pictures.subset(rows), self.features[rows], self.p_values[rows], answered)


def join_unknown(parts: Sequence[UnknownPictures]) -> UnknownPictures:
    """All of them, in order; of a picture that was asked about again, as by a notebook's cell, the newest answer.

    Raises:
        UsageError: not one picture.
    """
    if not any(part.unknown.any() for part in parts):
        raise UsageError(
            expected="pictures that were called unknown",
            got="none",
            fix="predict some pictures first",
            where="discover",
        )
    pictures, features, p, answered = zip(*parts, strict=True)
    joined = UnknownPictures(join_images(pictures), np.concatenate(features), np.concatenate(p), sum(answered, ()))
    newest = {digest: row for row, digest in enumerate(joined.pictures.digests)}
    return joined.subset(np.array(sorted(newest.values())))


def drop_pictures(part: UnknownPictures, digests: Collection[str]) -> UnknownPictures:
    """Those of other pictures."""
    return part.subset(np.flatnonzero([digest not in digests for digest in part.pictures.digests]))
