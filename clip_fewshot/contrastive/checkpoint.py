"""Checkpoints of a training: all that the steps to come depend on, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.contrastive.metrics_log import Figures, MetricsLog, TensorBoard
from clip_fewshot.contrastive.sources import epoch_length, read_identity
from clip_fewshot.contrastive.state import Training, broadcast_state
from clip_fewshot.data.pairs.batch import PairSource
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.runtime.artifacts import MANIFEST, load_artifact, save_artifact

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

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        if self._world.rank == 0:
            weights = {
                name.removeprefix(MODEL_PREFIX): t for name, t in tensors.items() if name.startswith(MODEL_PREFIX)
            }
            rest = {name: t for name, t in tensors.items() if not name.startswith(MODEL_PREFIX)}
            files = {CHECKPOINT_WEIGHTS: _packed(weights), REST: _packed(rest)}
            save_artifact(self.folder, KIND, files, meta)

    def exists(self) -> bool:
        """Whether there is a checkpoint; the same answer in all processes."""
        here = self._world.rank == 0 and (self.folder / MANIFEST).exists()
        return bool(self._world.gather(torch.full((int(here),), 1, device=self._device)).numel())

    def load(
        self, tensors: Mapping[str, Tensor], identity: Mapping[str, Any], pairs: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The checkpoint's meta and tensors, the same in all processes, which need not share a disk.

        Args:
            tensors: those of the training now; they give names, shapes and precisions.
            identity: its options; what the checkpoint's meta has under "identity" must be equal.
            pairs: what it trains on, against "pairs" in the meta; None on either side: not known, not compared.

        Raises:
            UsageError: other pairs or options; names what differs.
            ArtifactError: a damaged checkpoint, or one of another model.
        """
        told, saved = b"", {name: torch.zeros_like(t, device=self._device) for name, t in tensors.items()}
        if self._world.rank == 0:
            meta, files = load_artifact(self.folder, KIND)
            if pairs is not None and meta.get("pairs") is not None:  # first: other pairs have other steps as well
                _check_same("pairs", meta["pairs"], pairs, self.folder)
            _check_same("options", meta["identity"], identity, self.folder)
            told = json.dumps(meta).encode()
            found = {MODEL_PREFIX + name: t for name, t in _unpacked(files[CHECKPOINT_WEIGHTS], self.folder).items()}
            saved = _fitting(found | _unpacked(files[REST], self.folder), tensors, self.folder, self._device)
        self._world.sum_([saved[name] for name in tensors])
        words = self._world.gather(torch.tensor(list(told), dtype=torch.uint8, device=self._device))
        return json.loads(bytes(words.tolist())), saved


def _check_same(what: str, was: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    other = sorted(key for key in {*was, *now} if was.get(key) != now.get(key))
    if other:
        begun, given = (", ".join(f"{key} {source.get(key)}" for key in other) for source in (was, now))
        fix = "repeat them, or choose a new folder"
        raise UsageError(expected=f"the {what} it began with: {begun}", got=given, fix=fix, where=str(where))


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    # Copies: safetensors refuses tensors that share memory, and tied weights do.
    return safetensors.torch.save({k: t.detach().to("cpu", copy=True).contiguous() for k, t in tensors.items()})


def _unpacked(data: bytes, where: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ArtifactError(
            expected="a safetensors file", got=str(error), fix="restore the folder from a copy", where=str(where)
        ) from error


def _fitting(
    saved: Mapping[str, Tensor], live: Mapping[str, Tensor], where: Path, device: torch.device
) -> dict[str, Tensor]:
    forms = [{name: (tuple(t.shape), t.dtype) for name, t in tensors.items()} for tensors in (saved, live)]
    if forms[0] != forms[1]:
        odd = sorted(name for name in {*saved, *live} if forms[0].get(name) != forms[1].get(name))
        got = f"{len(odd)} tensors that differ, {odd[0]} among them"
        raise ArtifactError(
            expected="a checkpoint of this model and these options",
            got=got,
            fix="choose a new folder",
            where=str(where),
        )
    return {name: saved[name].to(device) for name in live}


class CheckpointFolder:
    """The folder of a training on ``pairs``, written by process 0 alone; None keeps nothing."""

    def __init__(self, training: Training, pairs: PairSource, world: World, folder: Path | None) -> None:
        self._training, self._length, self._world, self._folder = training, epoch_length(pairs), world, folder
        self._pairs = None if folder is None or world.rank > 0 else read_identity(pairs)
        self._checkpoints = None if folder is None else Checkpoints(folder, world, training.model.device)
        self._log: MetricsLog | None = None

    def begin(self, resume: bool, tensorboard: bool) -> None:
        """Bring all processes to the newest checkpoint, or to where process 0 stands, and open the log there."""
        training = self._training
        if self._checkpoints is not None and self._checkpoints.exists():
            if not resume:
                fix = "resume, or choose a new folder"
                raise UsageError(
                    expected="a folder without a training",
                    got="one with a checkpoint",
                    fix=fix,
                    where=str(self._folder),
                )
            identity = training.identity(self._length)
            training.restore(*self._checkpoints.load(training.tensors(), identity, self._pairs))
        else:
            started = (training.model.state_dict(), training.recipe.state_dict(), training.mean.tensors())
            broadcast_state([tensor for tensors in started for tensor in tensors.values()], self._world)
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
