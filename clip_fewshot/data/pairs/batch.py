"""What one step of contrastive training is fed, and what feeds it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from clip_fewshot.data.image import Colour, Geometry

IdentityValue = str | int | float | None  # as JSON gives it back


@dataclass(frozen=True)
class PairBatch:
    """Pairs of one step, or one process's share of them: picture i belongs to caption i.

    Attributes:
        images: (b, 3, h, w) float32, preprocessed.
        tokens: (b, l) token ids.
        caption_ids: (b,) int64, equal for captions that are the same input to the model; they are then not negatives
            of each other. None: every caption counts as a different one.
    """

    images: Tensor
    tokens: Tensor
    caption_ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


class PairSource(Protocol):
    """Batches that can be asked for again."""

    def steps(self) -> int:
        """Steps of an epoch; the same in all processes."""
        ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[PairBatch]:
        """The batches of ``epoch`` from step ``start`` on: exactly those that an epoch begun at 0 yields from there."""
        ...


@runtime_checkable
class Identified(Protocol):
    """A source that can tell whether another one yields the same pairs."""

    def identity(self) -> Mapping[str, IdentityValue]:
        """Short values, equal by name where the global batches are equal; the same for any number of processes."""
        ...


class PairReader(Protocol):
    """What a source needs of the model: how pictures are prepared, and how captions become tokens."""

    geometry: Geometry
    mean: Colour
    std: Colour

    def tokenize(self, texts: Sequence[str], truncate: bool = False) -> Tensor:
        """Texts -> (n, l) int64; UsageError for one that is too long, unless it may be cut."""
        ...


def digest_of(rows: int, *parts: bytes) -> str:
    """``rows`` and 64 bits of the parts' SHA-256, for an identity: as ``5,000 with digest 3fa9...``."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f"{rows:,} with digest {digest.hexdigest()[:16]}"


def caption_ids(tokens: Tensor) -> Tensor:
    """(n, l) token ids -> (n,) int64, equal for equal rows, the same in every process: 63 bits of a SHA-256.

    Tokens and not texts are compared: captions that differ only by case, or behind the point where they were cut, are
    one input to the model, so no training can separate them.
    """
    rows = tokens.cpu().to(torch.int64).contiguous().numpy()
    ids = [int.from_bytes(hashlib.sha256(row.tobytes()).digest()[:8], "big") >> 1 for row in rows]
    return torch.tensor(ids, dtype=torch.int64)
