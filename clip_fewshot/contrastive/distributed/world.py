"""Processes that train one model together. One process alone is a world of size 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class World(Protocol):
    """All processes of a training; each makes the same calls in the same order.

    Attributes:
        rank: number of this one, in [0, size).
        size: how many there are.
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """(n_r, ...) of each rank r -> (sum n_r, ...), rank 0's first, without gradient; some may bring no rows."""
        ...

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks; the same number and shapes on each."""
        ...

    def barrier(self) -> None:
        """Wait for all."""
        ...


@dataclass(frozen=True)
class SingleProcess:
    """A world of one process."""

    rank: int = 0
    size: int = 1

    def gather(self, rows: Tensor) -> Tensor:
        """The rows themselves, without gradient."""
        return rows.detach()

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors as they are: there is one summand."""

    def barrier(self) -> None:
        """Return at once: there is no other process."""
