"""Labelled pictures as pairs: captions from class names, drawn again in every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from clip_fewshot.data.captions import CaptionGenerator
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.batch import IdentityValue, PairBatch, PairReader, digest_of
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.runtime.rng import derive_seed
from clip_fewshot.types import IndexArray


class CaptionedStream:
    """Batches of a labelled dataset, each picture with a caption that :class:`CaptionGenerator` makes of its class.

    A batch is a function of (seed, epoch, step) alone, on any number of processes, as in :class:`PairStream`. Pictures
    of a class get different captions while there are any left, and all of them fit all its pictures.

    Args:
        dataset: labelled pictures.
        model: gives the size of pictures and the tokenizer.
        batch, seed, rank, world, truncate, numbered: see :class:`PairStream`.
        shared: pairs that share their targets: those of a class, or only those of equal captions. With the
            second, a picture must prefer its caption to others that fit as well, and the loss stops at about
            ln(pairs per class): the accuracy is the same (digits, 16 shots: .979 and .980), but nothing shows when
            training is done.
        templates: of the captions, as :class:`CaptionGenerator` takes them.

    Raises:
        DataError: no labels, or class names too long for a caption.
        UsageError: a batch or rank out of range.
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
        shared: Literal["class", "caption"] = "class",
        numbered: bool = False,
        templates: Sequence[str] = (),
    ) -> None:
        self._dataset, self._model, self._seed, self._shared = dataset, model, seed, shared
        self._names = dataset.label_space.decode(dataset.required_labels())
        self.batch, self._rank, self._world, self._truncate = batch, rank, world, truncate
        self._numbered, self._templates = numbered, tuple(templates)
        self._steps = self._stream(0).steps()

    @property
    def pictures(self) -> ImageDataset:
        """Each picture once, in the order of the numbers."""
        return self._stream(0).pictures

    @property
    def tokens(self) -> torch.Tensor:
        """(k, l) int32 token ids of the first epoch's captions; other epochs have as long ones."""
        return self._stream(0).tokens

    def steps(self) -> int:
        """Steps of an epoch."""
        return self._steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[PairBatch]:
        """The batches of ``epoch`` from step ``start`` on."""
        stream = self._stream(epoch)
        batches = stream.batches(epoch, start)
        return self._by_class(stream.rows(epoch)[start:], batches) if self._shared == "class" else batches

    def identity(self) -> dict[str, IdentityValue]:
        """What the batches follow from: of captions, the classes they are made of."""
        told = self._stream(0).identity()
        del told["captions"]
        classes = "\n".join(self._names).encode("utf-8", "surrogatepass")
        told |= {"classes": digest_of(len(self._names), classes), "shared": self._shared}
        texts = "\n".join(self._templates).encode("utf-8", "surrogatepass")
        return told | ({"templates": digest_of(len(self._templates), texts)} if texts else {})

    def captions(self, epoch: int) -> tuple[str, ...]:
        """The caption of each row in ``epoch``."""
        seed = derive_seed(self._seed, "captions of an epoch", epoch)
        write = CaptionGenerator(seed, templates=self._templates)
        return tuple(write(name) for name in self._names)

    def _by_class(self, steps: list[IndexArray], batches: Iterator[PairBatch]) -> Iterator[PairBatch]:
        labels = torch.from_numpy(self._dataset.required_labels())
        for rows, batch in zip(steps, batches, strict=True):
            yield replace(batch, caption_ids=labels[np.array_split(rows, self._world)[self._rank]])

    def _stream(self, epoch: int) -> PairStream:
        return PairStream(
            replace(self._dataset, captions=self.captions(epoch)),
            self._model,
            batch=self.batch,
            seed=self._seed,
            rank=self._rank,
            world=self._world,
            truncate=self._truncate,
            numbered=self._numbered,
        )
