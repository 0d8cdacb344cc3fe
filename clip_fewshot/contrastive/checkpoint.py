"""Checkpoints of a training: all that the steps to come depend on, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.contrastive.metrics_log import Figures, MetricsLog
from clip_fewshot.contrastive.sources import epoch_length, read_identity
from clip_fewshot.contrastive.state import Training, broadcast_state
from clip_fewshot.data.pairs.batch import PairSource
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.runtime.artifacts import MANIFEST, explain_content, find_artifact, save_artifact
from clip_fewshot.runtime.events import TensorBoard
from clip_fewshot.runtime.tensor_file import Form, TensorFile, read_forms, read_tensors

KIND, FOLDER = "training checkpoint", "checkpoint"
CHECKPOINT_WEIGHTS, REST, MODEL_PREFIX = "model.safetensors", "training.safetensors", "model."


class Checkpoints:
    """The newest checkpoint under ``folder``/checkpoint; process 0 alone reads and writes it.

    ``model.safetensors`` holds the weights under the model's own keys (OpenAI's, for a CLIP), so that file alone is a
    model that ``load_backbone`` reads; ``training.safetensors`` the rest. A new checkpoint replaces the old one in a
    single step and both have their SHA-256 in the manifest.
    """

    def __init__(self, folder: Path, world: World, device: torch.device) -> None:
        self.folder, self._world, self._device = folder / FOLDER, world, device

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], header: Mapping[str, str]) -> None:
        """Replace the checkpoint, without a copy of it in memory; ``header`` is of the file with the weights."""
        if self._world.rank == 0:
            weights = {
                name.removeprefix(MODEL_PREFIX): t for name, t in tensors.items() if name.startswith(MODEL_PREFIX)
            }
            rest = {name: t for name, t in tensors.items() if not name.startswith(MODEL_PREFIX)}
            files = {CHECKPOINT_WEIGHTS: TensorFile(weights, header), REST: TensorFile(rest)}
            save_artifact(self.folder, KIND, files, meta)

    def exists(self) -> bool:
        """Whether there is a checkpoint; the same answer in all processes."""
        here = self._world.rank == 0 and os.path.isfile(self.folder / MANIFEST)
        return bool(self._world.gather(torch.full((int(here),), 1, device=self._device)).numel())

    def load(
        self, tensors: Mapping[str, Tensor], identity: Mapping[str, Any] | None, pairs: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Fill ``tensors`` with the checkpoint's, in all processes, which need not share a disk; its meta.

        Args:
            tensors: those of the training now; names, shapes and precisions must be the checkpoint's.
            identity: its options; what the checkpoint's meta has under "identity" must be equal. None: may differ.
            pairs: what it trains on, against "pairs" in the meta; None on either side: not known, not compared.

        Raises:
            UsageError: other pairs or options; names what differs.
            ArtifactError: a damaged checkpoint, or one of another model. No tensor has been changed then.
        """
        told = b""
        if self._world.rank == 0:
            with explain_content(str(self.folder)):
                meta = self._fill(tensors, identity, pairs)
            told = json.dumps(meta).encode()
        broadcast_state(list(tensors.values()), self._world)
        words = self._world.gather(torch.tensor(list(told), dtype=torch.uint8, device=self._device))
        return dict(json.loads(bytes(words.tolist())))

    def _fill(
        self, tensors: Mapping[str, Tensor], identity: Mapping[str, Any] | None, pairs: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        meta, files = find_artifact(self.folder, KIND)
        if pairs is not None and meta.get("pairs") is not None:  # first: other pairs have other steps as well
            _check_same("pairs", meta["pairs"], pairs, self.folder)
        if identity is not None:
            _check_same("options", meta["identity"], identity, self.folder)
        parts = [(MODEL_PREFIX, files[CHECKPOINT_WEIGHTS]), ("", files[REST])]
        _check_fitting(
            {prefix + name: form for prefix, path in parts for name, form in read_forms(path).items()},
            tensors,
            self.folder,
        )
        for prefix, path in parts:
            for name, saved in read_tensors(path):
                tensors[prefix + name].copy_(saved)
        return meta


def _check_same(what: str, was: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    other = sorted(key for key in {*was, *now} if was.get(key) != now.get(key))
    if other:
        begun, given = (", ".join(f"{key} {source.get(key)}" for key in other) for source in (was, now))
        fix = "repeat them, or choose a new folder"
        raise UsageError(expected=f"the {what} it began with: {begun}", got=given, fix=fix, where=str(where))


def _check_fitting(saved: Mapping[str, Form], live: Mapping[str, Tensor], where: Path) -> None:
    wanted = {name: (tuple(t.shape), t.dtype) for name, t in live.items()}
    if saved != wanted:
        odd = sorted(name for name in {*saved, *wanted} if saved.get(name) != wanted.get(name))
        got, fix = f"{len(odd)} tensors that differ, {odd[0]} among them", "choose a new folder"
        raise ArtifactError(expected="a checkpoint of this model and these options", got=got, fix=fix, where=str(where))


class CheckpointFolder:
    """The folder of a training on ``pairs``, written by process 0 alone; None keeps nothing."""

    def __init__(self, training: Training, pairs: PairSource, world: World, folder: Path | None) -> None:
        self._training, self._length, self._world, self._folder = training, epoch_length(pairs), world, folder
        self._pairs = None if folder is None or world.rank > 0 else read_identity(pairs)
        self._checkpoints = None if folder is None else Checkpoints(folder, world, training.model.device)
        self._log: MetricsLog | None = None

    def begin(self, resume: bool, start: Path | None, tensorboard: bool) -> None:
        """Bring all processes to the newest checkpoint, or to where process 0 stands, and open the log there.

        Args:
            start: folder of another training whose state this one begins with.
        """
        training = self._training
        if self._checkpoints is not None and self._checkpoints.exists():
            if not resume:
                fix = "resume, or choose a new folder"
                got = "one with a checkpoint"
                raise UsageError(expected="a folder without a training", got=got, fix=fix, where=str(self._folder))
            identity = training.identity(self._length)
            tensors = training.tensors()
            meta = self._checkpoints.load(tensors, identity, self._pairs)
            with explain_content(str(self._folder)):
                training.settle(meta, tensors)
        elif start is not None:
            self._adopt(Checkpoints(start, self._world, training.model.device))
        else:
            started = (training.model.state_dict(), training.recipe.state_dict(), training.mean.tensors())
            broadcast_state([tensor for tensors in started for tensor in tensors.values()], self._world)
        if self._folder is not None and self._world.rank == 0:
            board = TensorBoard(self._folder / "tensorboard", training.taken) if tensorboard else None
            self._log = MetricsLog(self._folder, training.taken, board)

    def _adopt(self, other: Checkpoints) -> None:
        if not other.exists():
            fix = "name one that has reached the end of an epoch"
            raise UsageError(expected="a training with a checkpoint", got="none", fix=fix, where=str(other.folder))
        tensors = self._training.tensors()
        self._training.adopt(other.load(tensors, None), tensors)

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
            self._checkpoints.save(self._training.tensors(), meta, self._training.model.header())
