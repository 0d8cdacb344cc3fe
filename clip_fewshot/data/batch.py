"""What one step of contrastive training is fed, and what feeds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class PairBatch:
    """Pairs of one step, or one process's share of them: picture i belongs to caption i.

    Attributes:
        images: (b, 3, h, w) float32, preprocessed.
        tokens: (b, l) token ids.
        caption_ids: (b,) int64, equal for captions that the model cannot tell apart; they are then no negatives of
            each other. None: every caption is taken for another.
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
