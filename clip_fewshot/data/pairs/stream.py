"""Picture-caption pairs for contrastive training: each picture once an epoch, with one of its captions."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import normalise
from clip_fewshot.data.names import escape, list_first
from clip_fewshot.data.pairs.augment import RandomCrop
from clip_fewshot.data.pairs.batch import IdentityValue, PairBatch, PairReader, caption_ids, digest_of
from clip_fewshot.data.pairs.split import group_captions
from clip_fewshot.data.pixels import DECODE_THREADS, Pixels, pixel_batches
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import IndexArray

T = TypeVar("T")


class PairStream:
    """Batches of a captioned dataset, each a function of (seed, epoch, step) alone.

    An epoch shuffles the pictures and draws one caption of each. A step's pictures and captions are the same for any
    number of processes; each takes a contiguous share, the first ones a picture more where it does not come out even.
    Batches are prepared one ahead, in a thread, and pictures are decoded once (:mod:`clip_fewshot.data.pixels`).

    Args:
        dataset: one row per caption; rows whose pictures are identical are captions of one picture.
        model: gives the size of pictures and the tokenizer.
        batch: pictures in a step, of all processes together; at most those of the dataset.
        seed: of order, captions and crops.
        rank, world: this process, in [0, world), and how many there are.
        truncate: cut captions that are too long, keeping the end mark; else they are an error, raised here.
        drop_last: leave the rest out that fills no batch (other pictures in each epoch); else it is a smaller batch.
        augment: least share of the area of a random crop, in (0, 1], see :class:`RandomCrop`; None: no augmentation.
        numbered: give pictures as their numbers, (b,) int64 rows of :attr:`pictures`, in place of their pixels: for a
            model that has their states stored. Not with ``augment``.

    Raises:
        DataError: no captions; captions that are too long, each named with its line and its count of tokens.
        UsageError: a batch, rank or share out of range.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        model: PairReader,
        *,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        truncate: bool = False,
        drop_last: bool = True,
        augment: float | None = None,
        numbered: bool = False,
    ) -> None:
        if numbered and augment is not None:
            got, fix = f"augment {augment}", "leave it out"
            raise UsageError(expected="pictures that are the same each time", got=got, fix=fix, where="numbered")
        self._pictures = group_captions(dataset)
        n = self._pictures.n
        if not 0 <= rank < world:
            fix = "start the processes again"
            raise UsageError(expected="a rank in [0, world)", got=f"rank {rank}, world {world}", fix=fix, where="rank")
        if not world <= batch <= n:
            expected = f"from {world} (a picture per process) to {n} pictures in a batch"
            raise UsageError(expected=expected, got=str(batch), fix="change the batch", where="batch")
        self.dataset, self.size, self.batch = dataset, model.geometry.size, batch
        self._geometry = model.geometry
        self.mean, self.std = model.mean, model.std
        self.seed, self.rank, self.world, self._numbered = seed, rank, world, numbered
        self._steps = n // batch if drop_last else -(-n // batch)
        self._crop = None if augment is None else RandomCrop(augment, self.size)
        self._tokens, self._text_of = _tokenized(dataset, model, truncate)
        self._ids = caption_ids(self._tokens)

    @property
    def pictures(self) -> ImageDataset:
        """Each picture once, in the order of the numbers."""
        return self.dataset.subset(self._pictures.rows[self._pictures.starts[:-1]])

    @property
    def tokens(self) -> Tensor:
        """(k, l) int32 token ids of the distinct captions."""
        return self._tokens

    def steps(self) -> int:
        """Steps of an epoch."""
        return self._steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[PairBatch]:
        """The batches of ``epoch`` from step ``start`` on; its pictures' pixels are read while the caller computes."""
        if not 0 <= start <= self._steps:
            expected = f"a step in [0, {self._steps}]"
            raise UsageError(expected=expected, got=str(start), fix="resume with the same batch size", where="start")
        return prefetch(self._read(epoch, start))

    def identity(self) -> dict[str, IdentityValue]:
        """What decides the batches. Captions count by their tokens, so that cut ones differ from whole ones."""
        order = "\n".join(self.dataset.digests).encode()
        return {
            "pictures": digest_of(self._pictures.n, order),
            "captions": digest_of(len(self.dataset), self._tokens.numpy().tobytes(), self._text_of.tobytes()),
            "batch": self.batch,
            "seed": self.seed,
            "augment": None if self._crop is None else self._crop.smallest,
            "decode": "exact",  # the one way that is left; runs that were begun by another are refused
        }

    def rows(self, epoch: int) -> list[IndexArray]:
        """The rows of the dataset in each step of ``epoch``, of all processes together."""
        n = self._pictures.n
        order = generator(self.seed, "pairs", "order", epoch).permutation(n)
        drawn = self._pictures.draw(generator(self.seed, "pairs", "captions", epoch).random(n))
        return [drawn[order[step * self.batch : (step + 1) * self.batch]] for step in range(self._steps)]

    def _read(self, epoch: int, start: int) -> Generator[PairBatch, None, None]:
        shares = [np.array_split(rows, self.world)[self.rank] for rows in self.rows(epoch)[start:]]
        if self._numbered:
            yield from (self._paired(torch.from_numpy(self._pictures.of_row[rows]), rows) for rows in shares)
            return
        if not shares:
            return
        crops = generator(self.seed, "pairs", "crops", epoch).random((self._pictures.n, 3))
        how = self._geometry if self._crop is None else self._geometry.sized(self._crop.held)
        images = self.dataset.subset(np.concatenate(shares))
        squares, pool = pixel_batches(images, how, max(1, len(shares[0]))), ThreadPoolExecutor(DECODE_THREADS)
        with closing(squares), pool:
            for rows in shares:
                if not len(rows):
                    yield self._batch(rows, np.empty((0, self.size, self.size, 3), np.uint8))
                elif self._crop is None:
                    yield self._batch(rows, next(squares))
                else:
                    drawn = crops[self._pictures.of_row[rows]]
                    yield self._batch(rows, self._crop(next(squares), drawn, pool))

    def _batch(self, rows: IndexArray, pixels: Pixels) -> PairBatch:
        return self._paired(torch.from_numpy(normalise(pixels, self.mean, self.std)), rows)

    def _paired(self, images: Tensor, rows: IndexArray) -> PairBatch:
        texts = self._text_of[rows]
        return PairBatch(images, self._tokens[texts].long(), self._ids[texts])


def prefetch(items: Generator[T, None, None]) -> Iterator[T]:
    """The same items, each made in a thread while the one before it is used.

    One is enough: whichever of making and using takes longer never waits, and a batch of thousands of pictures is
    gigabytes.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as maker, closing(items):
        try:
            coming = maker.submit(next, items, None)
            while (item := coming.result()) is not None:
                coming = maker.submit(next, items, None)
                yield item
        finally:  # an item that is being made is waited for: a generator at work cannot be closed
            maker.shutdown(cancel_futures=True)


def _tokenized(dataset: ImageDataset, model: PairReader, truncate: bool) -> tuple[Tensor, IndexArray]:
    """(k, l) int32 tokens of the distinct captions, half the memory of int64, and (rows,) which of them is a row's."""
    captions = dataset.captions or ()
    number = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    text_of = np.array([number[caption] for caption in captions], np.int64)
    try:
        return model.tokenize(list(number), truncate).to(torch.int32), text_of
    except UsageError as error:
        too_long = {caption: reason for caption in number if (reason := _refused(model, caption)) is not None}
        origins = dataset.origins or dataset.names
        rows = [(origins[i], too_long[caption]) for i, caption in enumerate(captions) if caption in too_long]
        got = f"{len(rows)} with more:{list_first(f'{escape(origin)}: {reason}' for origin, reason in rows)}\n"
        fix = "shorten them, or let them be cut (`truncate`)"
        raise DataError(expected=f"captions of {error.expected}", got=got, fix=fix, where=dataset.name) from error


def _refused(model: PairReader, caption: str) -> str | None:
    """What the tokenizer got that it could not take, or None."""
    try:
        model.tokenize([caption])
    except UsageError as error:
        return error.got
    return None
