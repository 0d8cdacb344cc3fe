"""The user's own DataLoader as a source of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from clip_fewshot.data.names import number
from clip_fewshot.data.pairs.batch import PairBatch, PairReader, caption_ids
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.rng import derive_seed, seed_torch_cpu


class PairMaker(PairReader, Protocol):
    """A model that also prepares single pictures."""

    def preprocess(self, image: Image.Image) -> Tensor:
        """A picture -> (3, h, w) float32."""
        ...


class LoaderSource:
    """Pairs from any iterable of (images, texts), such as a ``torch.utils.data.DataLoader``.

    Images are (b, 3, h, w) floats that the user has prepared, or b PIL pictures, which the model prepares. Texts are b
    strings, or (b, l) token ids. Everything that the loader draws from torch (the order, random transforms, with
    workers or without) follows from (seed, epoch), and steps before ``start`` are read and passed over, so a resumed
    run sees what it would have seen; draws from ``random`` or NumPy in a loader without workers are the user's to seed.
    With several processes each one's loader yields its own share; a sampler's ``set_epoch`` is called.

    Args:
        loader: read from its beginning in each epoch.
        model: tokenizes and prepares.
        seed: of what the loader draws.
        steps: of an epoch; None: ``len(loader)``.
        truncate: cut texts that are too long, keeping the end mark.

    Raises:
        UsageError: a loader that can be read only once, or of unknown length.

    Example:
        >>> import clip_fewshot as cf
        >>> digits, backbone = cf.read_dataset("digits").subset(range(8)), cf.load_backbone("mini")
        >>> loader = [(list(digits.images), digits.label_space.decode(digits.labels))]  # or a torch DataLoader
        >>> batch = next(iter(cf.LoaderSource(loader, backbone).batches(0)))
        >>> batch.images.shape
        torch.Size([8, 3, 32, 32])
    """

    def __init__(
        self,
        loader: Iterable[Any],
        model: PairMaker,
        *,
        seed: int = 0,
        steps: int | None = None,
        truncate: bool = False,
    ) -> None:
        if isinstance(loader, Iterator):
            expected = "an iterable that can be read more than once"
            raise UsageError(expected=expected, got="an iterator", fix="pass the DataLoader itself", where="loader")
        self._loader, self._model, self._seed, self._truncate = loader, model, seed, truncate
        self._steps = _length(loader) if steps is None else steps

    def steps(self) -> int:
        """Steps of an epoch."""
        return self._steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[PairBatch]:
        """The batches of ``epoch`` from step ``start`` on.

        Raises:
            DataError: while iterating: an item that is no pair, or too few of them; names the step.
        """
        _rewind(self._loader, epoch, derive_seed(self._seed, "loader", epoch))
        with seed_torch_cpu(self._seed, "loader", epoch):
            items = iter(self._loader)
        for step in range(self._steps):
            with seed_torch_cpu(self._seed, "loader", epoch, step):
                item = next(items, None)
            if item is None:
                got = f"{step} in epoch {epoch}"
                expected = f"{self._steps} batches"
                raise DataError(expected=expected, got=got, fix="give steps as many as there are", where="loader")
            if step >= start:
                yield self._batch(item, f"loader, batch {step}")

    def _batch(self, item: Any, where: str) -> PairBatch:
        if not isinstance(item, list | tuple) or len(item) != 2:
            got = f"{type(item).__name__}" + (f" of {len(item)}" if isinstance(item, list | tuple) else "")
            raise DataError(expected="(images, texts)", got=got, fix="yield pairs", where=where)
        images, tokens = self._images(item[0], where), self._tokens(item[1], where)
        if len(images) != len(tokens):
            got = f"{number(len(images), 'image')}, {number(len(tokens), 'text')}"
            raise DataError(expected="a text per image", got=got, fix="yield as many of each", where=where)
        return PairBatch(images, tokens, caption_ids(tokens))

    def _images(self, given: Any, where: str) -> Tensor:
        if isinstance(given, list | tuple) and given and all(isinstance(picture, Image.Image) for picture in given):
            return torch.stack([self._model.preprocess(picture) for picture in given])
        if isinstance(given, Tensor) and given.is_floating_point() and given.ndim == 4 and given.shape[1] == 3:
            return given.float()
        fix = "prepare them, as model.preprocess does, or yield PIL pictures"
        got = _kind(given)
        raise DataError(expected="images as (b, 3, h, w) floats or PIL pictures", got=got, fix=fix, where=where)

    def _tokens(self, given: Any, where: str) -> Tensor:
        if isinstance(given, list | tuple) and given and all(isinstance(text, str) for text in given):
            try:
                return self._model.tokenize(list(given), self._truncate)
            except UsageError as error:
                got, fix = error.got, error.fix
                raise DataError(expected=error.expected, got=got, fix=fix, where=f"{where}, {error.where}") from error
        if isinstance(given, Tensor) and given.dtype in (torch.int64, torch.int32) and given.ndim == 2:
            return given.long()
        got = _kind(given)
        raise DataError(expected="texts as strings or (b, l) token ids", got=got, fix="yield one of these", where=where)


def _length(loader: Any) -> int:
    try:
        return len(loader)
    except TypeError as error:
        raise UsageError(expected="a loader with a length", got="none", fix="give steps=", where="loader") from error


def _rewind(loader: Any, epoch: int, seed: int) -> None:
    """Set what the loader remembers between epochs: generators of its own, and the epoch of its samplers."""
    for name in ("sampler", "batch_sampler", None):
        holder = loader if name is None else getattr(loader, name, None)
        if isinstance(own := getattr(holder, "generator", None), torch.Generator):
            own.manual_seed(seed)
        if (set_epoch := getattr(holder, "set_epoch", None)) is not None:
            set_epoch(epoch)


def _kind(given: Any) -> str:
    return f"{given.dtype} {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
