"""Who is told what a training measures: a function that takes one dict, ``on_event`` of both trainers.

``{"kind": "trial", "step": 3, "approach": "mlp", "value": 0.91, ...}``: every event has a kind and a step, numbers and
texts beside them. A tracker of experiments is such a function, in a few lines (docs/howto/track.md). We rejected an
object with methods for beginning, step and end, as Lightning has it: it is a class to write, where a function will do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clip_fewshot.errors import ResourceError
from clip_fewshot.runtime.files import append_line
from clip_fewshot.runtime.reading import as_path

Event = Mapping[str, Any]
OnEvent = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """For those who track nothing."""


class EventLog:
    """Appends each event to a file as a line of JSON.

    Numbers that are not finite become null, which JSON has no number for.

    Example:
        >>> from clip_fewshot.runtime.events import EventLog
        >>> log = EventLog("events.jsonl")
        >>> log({"kind": "train", "step": 1, "loss": 0.5})
        >>> log.path.read_text().strip()
        '{"kind": "train", "step": 1, "loss": 0.5}'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path, "path")

    def __call__(self, event: Event) -> None:
        """Append a line."""
        finite = {name: None if _is_no_number(value) else value for name, value in event.items()}
        append_line(self.path, json.dumps(finite, allow_nan=False))


class TensorBoard:
    """Writes the numbers of each event under ``folder`` for ``tensorboard --logdir``.

    Args:
        taken: steps that the training has taken; what an earlier run wrote of later ones is hidden.

    Raises:
        ResourceError: the package tensorboard is not there.
    """

    def __init__(self, folder: str | Path, taken: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            fix = "pip install clip-fewshot[tracking], or leave TensorBoard out"
            raise ResourceError(expected="the package tensorboard", got="none", fix=fix, where="tensorboard") from error
        self._writer = SummaryWriter(str(folder), purge_step=None if taken is None else taken + 1)

    def __call__(self, event: Event) -> None:
        """One point of each curve."""
        for name, value in event.items():
            if name != "step" and isinstance(value, int | float) and not _is_no_number(value):
                self._writer.add_scalar(f"{event['kind']}/{name}", value, event["step"])

    def flush(self) -> None:
        """Write what is waiting."""
        self._writer.flush()


def join_board(on_event: OnEvent, folder: Path | None) -> OnEvent:
    """``on_event``, and TensorBoard under ``folder`` beside it, where one is named; for events that are rare."""
    if folder is None:
        return on_event
    board = TensorBoard(folder)

    def tell(event: Event) -> None:
        board(event)
        board.flush()
        on_event(event)

    return tell


def _is_no_number(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
