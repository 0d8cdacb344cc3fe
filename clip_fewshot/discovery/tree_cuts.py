"""A tree of mergers that is cut into any number of parts without a walk through it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clip_fewshot.types import FloatArray, IndexArray, LabelArray


class TreeCuts(NamedTuple):
    """(n - 1, 4) mergers in SciPy's layout, and where each of them lies in an order of its leaves.

    Attributes:
        place: (n,) of each row in that order. joint: (n - 1,) the place at which the later child of a merger begins.
    """

    mergers: FloatArray
    place: IndexArray
    joint: IndexArray

    @classmethod
    def from_mergers(cls, mergers: FloatArray) -> TreeCuts:
        """Of a tree whose heights never fall."""
        n = len(mergers) + 1
        size, start, joint = [1.0] * n + mergers[:, 3].tolist(), [0] * (2 * n - 1), [0] * (n - 1)
        for row, (a, b) in reversed(list(enumerate(mergers[:, :2].astype(int).tolist()))):
            start[a], start[b] = start[n + row], start[n + row] + int(size[a])
            joint[row] = start[b]
        return cls(mergers, np.array(start[:n]), np.array(joint, dtype=np.int64))

    def cut(self, parts: int) -> LabelArray:
        """(n,) numbers 0, 1, ... of so many parts."""
        begins = np.zeros(len(self.place), dtype=np.int64)
        begins[self.joint[len(self.joint) + 1 - parts :]] = 1
        return np.asarray(np.cumsum(begins)[self.place])
