"""What a training leaves behind on the disk: its figures and its newest checkpoint."""

from __future__ import annotations

from pathlib import Path

from clip_fewshot.data.batch import PairSource
from clip_fewshot.errors import UsageError
from clip_fewshot.training.checkpoint import Checkpoints
from clip_fewshot.training.metrics_log import Figures, MetricsLog
from clip_fewshot.training.sources import epoch_length, identity_of
from clip_fewshot.training.state import Training, share
from clip_fewshot.training.tensorboard import TensorBoard
from clip_fewshot.training.world import World


class Keeper:
    """The folder of a training on ``pairs``, written by process 0 alone; None keeps nothing."""

    def __init__(self, training: Training, pairs: PairSource, world: World, folder: Path | None) -> None:
        self._training, self._length, self._world, self._folder = training, epoch_length(pairs), world, folder
        self._pairs = None if folder is None or world.rank > 0 else identity_of(pairs)
        self._checkpoints = None if folder is None else Checkpoints(folder, world, training.model.device)
        self._log: MetricsLog | None = None

    def begin(self, resume: bool, tensorboard: bool) -> None:
        """Bring all processes to the newest checkpoint, or to where process 0 stands, and open the log there."""
        training = self._training
        if self._checkpoints is not None and self._checkpoints.exists():
            if not resume:
                fix = "resume, or choose a new folder"
                raise UsageError("a folder without a training", "one with a checkpoint", fix, str(self._folder))
            identity = training.identity(self._length)
            training.restore(*self._checkpoints.load(training.tensors(), identity, self._pairs))
        else:
            started = (training.model.state_dict(), training.recipe.state_dict(), training.mean.tensors())
            share([tensor for tensors in started for tensor in tensors.values()], self._world)
        if self._folder is not None and self._world.rank == 0:
            board = TensorBoard(self._folder / "tensorboard", training.taken) if tensorboard else None
            self._log = MetricsLog(self._folder, training.taken, board)

    def log(self, kind: str, figures: Figures) -> None:
        """A line about the steps taken so far."""
        if self._log is not None:
            self._log.add(kind, self._training.taken, figures)

    def save(self) -> None:
        """Replace the checkpoint. The lines before it are on the disk first: the run that goes on repeats none."""
        if self._log is not None:
            self._log.settle(self._training.taken)
        if self._checkpoints is not None:
            meta = self._training.meta(self._length) | {"pairs": self._pairs}
            self._checkpoints.save(self._training.tensors(), meta)
