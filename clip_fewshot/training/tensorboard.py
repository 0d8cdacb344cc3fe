"""The figures of a training in TensorBoard's files; the extra ``tracking``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clip_fewshot.errors import ResourceError


class TensorBoard:
    """Writes scalars under ``folder`` for ``tensorboard --logdir``.

    Args:
        taken: steps that the training has taken; what an earlier run wrote of later ones is hidden.
    """

    def __init__(self, folder: Path, taken: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            fix = "pip install clip-fewshot[tracking], or leave TensorBoard out"
            raise ResourceError("the package tensorboard", "none", fix, "tensorboard") from error
        self._writer = SummaryWriter(str(folder), purge_step=taken + 1)

    def add(self, kind: str, step: int, figures: Mapping[str, float | int | None]) -> None:
        """One point of each curve."""
        for name, value in figures.items():
            if value is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        """Write what is waiting."""
        self._writer.flush()
