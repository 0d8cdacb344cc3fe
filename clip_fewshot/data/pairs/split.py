"""Captions grouped by picture: what is drawn from, and what a split must keep together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.rng import derive_seed
from clip_fewshot.types import FloatArray, IndexArray


class Pictures(NamedTuple):
    """The n distinct pictures of a captioned dataset, in the order in which they first come.

    Attributes:
        of_row: (rows,) the picture that each row captions.
        rows: (rows,) the rows, those of picture 0 first.
        starts: (n + 1,) where in ``rows`` each picture's begin, and the end.
    """

    of_row: IndexArray
    rows: IndexArray
    starts: IndexArray

    @property
    def n(self) -> int:
        """How many pictures there are."""
        return len(self.starts) - 1

    def draw(self, chances: FloatArray) -> IndexArray:
        """(n,) numbers in [0, 1) -> (n,) a row of each picture, each of its rows equally likely."""
        offsets: IndexArray = np.floor(chances * np.diff(self.starts)).astype(np.int64)
        drawn: IndexArray = self.rows[self.starts[:-1] + offsets]
        return drawn


def group_captions(dataset: ImageDataset) -> Pictures:
    """Rows whose files are identical are captions of one picture.

    Raises:
        DataError: a dataset without captions.
    """
    if dataset.captions is None or not len(dataset):
        fix = "use pairs: texts beside the pictures, a table with a caption column, tar shards"
        raise DataError(expected="a caption per row", got="none", fix=fix, where=dataset.name)
    number = {digest: i for i, digest in enumerate(dict.fromkeys(dataset.digests))}
    of_row = np.array([number[digest] for digest in dataset.digests], np.int64)
    rows: IndexArray = np.argsort(of_row, kind="stable")
    return Pictures(of_row, rows, np.searchsorted(of_row[rows], np.arange(len(number) + 1)))


def split_pairs(dataset: ImageDataset, test: int = 100, seed: int = 0) -> tuple[ImageDataset, ImageDataset]:
    """(training pairs, test pairs): pictures are divided, and all captions of a picture stay with it.

    The source's own partition is kept where it has one. Else the ``test`` pictures with the smallest hash of (seed,
    content) are set aside, whatever their names and order. Pictures added later can take a place among them, but no
    training picture ever becomes a test picture.

    Args:
        dataset: captioned pictures.
        test: pictures to set aside, not captions; not used where the source has a partition.
        seed: chooses them.

    Raises:
        DataError: no captions.
        UsageError: a side would be empty.
    """
    pictures = group_captions(dataset)
    if "test" in dataset.partition:
        aside = np.array([part == "test" for part in dataset.partition])
    else:
        if not 0 < test < pictures.n:
            fix = "leave pictures for both sides"
            raise UsageError(expected=f"1 to {pictures.n - 1} test pictures", got=str(test), fix=fix, where="test")
        lots = np.array([derive_seed(seed, "test pairs", digest) for digest in dict.fromkeys(dataset.digests)])
        chosen = np.zeros(pictures.n, np.bool_)
        chosen[np.argsort(lots, kind="stable")[:test]] = True
        aside = chosen[pictures.of_row]
    if aside.all():
        raise UsageError(expected="training pictures", got="none", fix="mark some rows as train", where=dataset.name)
    return dataset.subset(np.flatnonzero(~aside)), dataset.subset(np.flatnonzero(aside))
