"""The pixels that a network sees, each file decoded once: in threads, ahead of the network, and kept in the cache."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.decoder_warnings import HANDLER
from clip_fewshot.data.image import Geometry, resize_crop
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.row_cache import Batch, RowCache
from clip_fewshot.types import IndexArray

Pixels = NDArray[np.uint8]

DECODE_THREADS = min(16, os.cpu_count() or 1)  # Pillow decodes and resizes outside the interpreter's lock
AHEAD = 64  # pictures decoded before they are asked for; 10 MB at 224 pixels
VERSION = 2  # of what is done to a picture between its file and its pixels


def pixel_batches(images: ImageDataset, size: int | Geometry, batch: int = 16) -> Generator[Pixels, None, None]:
    """(b, size, size, 3) bytes in the order of ``images``, b at most ``batch``: upright, resized, centre cropped.

    What was decoded from a file before, by any process, is read from the cache instead and the file is not opened;
    what is decoded now is kept batch by batch. Pictures in memory are resized every time.

    Args:
        size: side of the square in pixels, or how it is made.
        batch: pictures in one array.

    Raises:
        DataError: while iterating: a picture cannot be decoded (ImageError), or its file is no longer the one that
            the dataset was read from.
    """
    how = size if isinstance(size, Geometry) else Geometry(size)
    if how.size < 1 or batch < 1:
        fix, got = "give positive numbers", f"size {how.size}, batch {batch}"
        raise UsageError(expected="at least 1", got=got, fix=fix, where="pixel_batches")
    return _in_order(images, how, batch)


def _in_order(images: ImageDataset, how: Geometry, batch: int) -> Generator[Pixels, None, None]:
    supply, ahead = _Supply(images, how), -(-AHEAD // batch)
    waiting: deque[_Order] = deque()
    try:
        with HANDLER:
            for start in range(0, len(images), batch):
                waiting.append(supply.order(range(start, min(start + batch, len(images))), waiting))
                if len(waiting) > ahead:
                    yield supply.deliver(waiting.popleft())
            while waiting:
                yield supply.deliver(waiting.popleft())
    finally:
        supply.pool.shutdown(cancel_futures=True)


class _Order(NamedTuple):
    """One batch: its rows of the dataset, and by digest what the workers bring of it."""

    rows: range
    decoded: dict[str, Future[Pixels]]


class _Supply:
    """Pixels from the cache or from the workers."""

    def __init__(self, images: ImageDataset, how: Geometry) -> None:
        self.images, self.how, self.size = images, how, how.size
        self.cache = RowCache("pixels", {"pixels": {"size": how.size, **how.about(), **describe_preparation()}})
        self.pool = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")

    def order(self, rows: range, waiting: Iterable[_Order]) -> _Order:
        """Begin to decode what is not held, but no picture that is on its way already."""
        digests = [self.images.digests[row] for row in rows]
        flying = {digest: future for order in waiting for digest, future in order.decoded.items()}
        decoded: dict[str, Future[Pixels]] = {}
        for i in self.cache.missing(digests).tolist():
            decoded[digests[i]] = flying.get(digests[i]) or self.pool.submit(self._decode, rows[i])
        return _Order(rows, decoded)

    def deliver(self, order: _Order) -> Pixels:
        """The batch, once it is whole; what it decoded from files is in the cache then."""
        digests = [self.images.digests[row] for row in order.rows]
        pixels = np.empty((len(digests), self.size, self.size, 3), np.uint8)
        # A picture in memory is not kept, but it may be one whose file was.
        kept = np.array([self._is_file(row) or digests[i] not in order.decoded for i, row in enumerate(order.rows)])
        for i in np.flatnonzero(~kept):
            pixels[i] = order.decoded[digests[i]].result()
        files = [digests[i] for i in np.flatnonzero(kept)]
        if files:
            pixels[kept] = self.cache.rows(files, lambda missing: _decoded(order, files, missing))["pixels"].read()
        return pixels

    def _is_file(self, row: int) -> bool:
        return isinstance(self.images.images[row], Path)

    def _decode(self, row: int) -> Pixels:
        with self.images.opened(row) as picture:
            return np.asarray(resize_crop(picture, self.how))


def _decoded(order: _Order, digests: Sequence[str], missing: IndexArray) -> Iterator[Batch[str]]:
    yield missing, {"pixels": np.stack([order.decoded[digests[i]].result() for i in missing])}


def describe_preparation() -> dict[str, Any]:
    """What decides the pixels besides the file.

    Pillow's releases differ in their decoders and in their rounding: 13 resamples tall pictures in another order than
    12.
    """
    return {"version": VERSION, "decode": "exact", "pillow": PIL.__version__}
