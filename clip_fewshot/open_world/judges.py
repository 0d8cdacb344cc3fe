"""One view of the known pictures: what a detector is fitted on, and what calibrates it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.tower import Suffix
from clip_fewshot.open_world.feature_spaces import is_tuned
from clip_fewshot.runtime.artifacts import select_part
from clip_fewshot.tuning.last_layers import copy_last_layers
from clip_fewshot.types import FloatArray, IndexArray, LabelArray


class LabelledRows(NamedTuple):
    """(n, d) features of known pictures in the rejector's space, and their (n,) classes."""

    rows: FloatArray
    labels: LabelArray

    def join(self, other: LabelledRows) -> LabelledRows:
        """These and the others."""
        return LabelledRows(np.concatenate([self.rows, other.rows]), np.concatenate([self.labels, other.labels]))

    def subset(self, rows: IndexArray) -> LabelledRows:
        """The chosen ones."""
        return LabelledRows(self.rows[rows], self.labels[rows])


class Judge(NamedTuple):
    """One view of the known pictures.

    Attributes:
        suffix: the tuned image suffix that made the features; None where they are the untuned tower's.
        known: what the detector is fitted on.
        held_out: known pictures that neither suffix nor detector has seen; None: the same shots teach and calibrate.
    """

    suffix: Suffix | None
    known: LabelledRows
    held_out: LabelledRows | None


def read_judge(space: str, unfreeze: int, tensors: dict[str, Tensor], backbone: Backbone) -> Judge:
    """The judge that :meth:`Rejector.to_tensors` wrote as ``tensors``."""
    suffix = None
    if is_tuned(space):
        suffix = copy_last_layers(backbone.visual, unfreeze)
        suffix.load_state_dict(select_part(tensors, "suffix"))
        suffix.eval().requires_grad_(False)
    known, held_out = (select_part(tensors, name) for name in ("known", "held_out"))
    return Judge(suffix, _read_shots(known), _read_shots(held_out) if held_out else None)


def _read_shots(tensors: dict[str, Tensor]) -> LabelledRows:
    return LabelledRows(tensors["rows"].numpy(), tensors["labels"].numpy())
