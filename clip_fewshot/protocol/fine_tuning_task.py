"""What the folder of a fine-tuning keeps of its task, and what another one that goes on from it must know.

A table grows, and captions are corrected. ``--resume`` ends a training with the pairs it began with; ``--from`` begins
another one with the weights and the optimiser's moments of an earlier one, a schedule of its own, and today's pairs.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.contrastive.checkpoint import FOLDER as CHECKPOINT_FOLDER
from clip_fewshot.contrastive.jobs import FINE_TUNING_PASSES, FineTuningJob
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.names import number
from clip_fewshot.errors import ArtifactError, DataError, UsageError
from clip_fewshot.runtime.artifacts import MANIFEST, explain_content
from clip_fewshot.runtime.files import check_seal, read_json, seal, write_json
from clip_fewshot.runtime.outputs import FolderKind, mark_folder

TASK, PAIRS_FILE, TRAINING_FOLDER = "task.json", "pairs.json", "training"
FINE_TUNING_FOLDER = FolderKind("fine-tuning", ((TASK, frozenset({"data", "captions", "head_lr"})),))
# From a run to the one that goes on; what is read is known by its content.
MAY_DIFFER = {
    *("out", "resume", "overwrite", "chunk", "device", "spark", "processes"),
    *("root", "columns", "format", "class_names", "classes_at"),
}
# What a task.json of before means.
NOT_WRITTEN = {"templates": None, "optimizer": "adamw", "precision": "auto", "category": "none", "from_": None}
WRITTEN_AS = {"passes": "epochs", "per_class": "shots", "held_out": "test_fraction"}  # in task.json, as ever
CARRIED = ("model", "unfreeze", "lock", "head", "prompts", "optimizer", "distil")  # what the state of a training is of

TextsByPicture = Mapping[str, list[str]]  # digest of a picture -> its captions, or its class, in order


def describe_task(job: FineTuningJob, data: ImageDataset, model: Backbone) -> dict[str, Any]:
    """What a run that goes on must share with the one that began."""
    names = {f.name for f in fields(FineTuningJob)} - MAY_DIFFER - {"template"} - set(WRITTEN_AS)
    chosen = {name: getattr(job, name) for name in names} | {old: getattr(job, new) for new, old in WRITTEN_AS.items()}
    chosen["epochs"] = job.passes or FINE_TUNING_PASSES
    chosen["templates"] = list(job.template) or None  # themselves, as a file of them may change
    captions = hashlib.sha256("\n".join(data.captions or ()).encode("utf-8", "surrogatepass")).hexdigest()
    chosen |= {name: getattr(job.plan, name) for name in ("head", "backbone_lr", "head_lr")}
    chosen["unfreeze"] = list(job.unfreeze) if isinstance(job.unfreeze, tuple) else job.unfreeze
    return chosen | {"model": model.digest, "data": data.fingerprint(), "captions": captions}


def begin_task(
    job: FineTuningJob,
    now: dict[str, Any],
    kept: ImageDataset,
    held: ImageDataset,
    earlier: EarlierRun | None,
) -> None:
    """Note the task and its pairs in the folder; a folder in which another one was begun is refused."""
    path = job.folder / TASK
    if FINE_TUNING_FOLDER.owns(job.folder) and os.path.exists(path):
        was = NOT_WRITTEN | check_seal(read_json(path), str(path))
        other = sorted(key.rstrip("_") for key in now if was.get(key) != now[key])
        if other:
            fix = "repeat the options it began with, or choose a new folder"
            got = f"another {', '.join(other)}"
            raise UsageError(expected="the task that was begun there", got=got, fix=fix, where=str(job.folder))
        if not job.resume:
            raise UsageError(
                expected="a new folder",
                got="one with a training",
                fix="go on with it (`resume`), or name another",
                where=str(job.folder),
            )
    mark_folder(job.folder, FINE_TUNING_FOLDER)
    before = sorted(earlier.trained) if earlier else []
    pairs = {"training": _texts_of(kept), "test": _texts_of(held), "before": before}
    write_json(job.folder / PAIRS_FILE, seal(pairs))
    write_json(path, seal(now))


def _texts_of(data: ImageDataset) -> dict[str, list[str]]:
    texts = data.captions or data.label_space.decode(data.required_labels())
    found = defaultdict[str, list[str]](list)
    for digest, text in sorted(zip(data.digests, texts, strict=True)):
        found[digest].append(text)
    return dict(found)


@dataclass(frozen=True)
class EarlierRun:
    """A fine-tuning to go on from.

    Attributes:
        task: what it wrote of its task.
        texts: of the pictures of both its sides.
        trained: digests of the pictures that it, and what it went on from, has trained on.
    """

    folder: Path
    task: Mapping[str, Any]
    texts: TextsByPicture
    trained: frozenset[str]

    @classmethod
    def read(cls, folder: Path) -> EarlierRun:
        """The run in ``folder``, finished, or stopped after its first epoch.

        Raises:
            ArtifactError: no such run, no checkpoint, or one that did not keep its pairs.
        """
        for name in (TASK, PAIRS_FILE, f"{TRAINING_FOLDER}/{CHECKPOINT_FOLDER}/{MANIFEST}"):
            if not os.path.isfile(folder / name):
                fix = "name the folder of a `finetune` run of this release; of others, take DIR/model as `model`"
                got = f"no {name}"
                raise ArtifactError(expected="a fine-tuning to go on from", got=got, fix=fix, where=str(folder))
        with explain_content(str(folder)):
            pairs = check_seal(read_json(folder / PAIRS_FILE), str(folder / PAIRS_FILE))
            task = check_seal(read_json(folder / TASK), str(folder / TASK))
            trained = frozenset([*pairs["training"], *pairs["before"]])
            return cls(folder, NOT_WRITTEN | task, pairs["training"] | pairs["test"], trained)

    def check(self, now: Mapping[str, Any]) -> None:
        """Raise UsageError where the task of ``now`` trains other parameters, or from another model."""
        other = [key for key in CARRIED if self.task.get(key) != now[key]]
        if other:
            got = ", ".join(f"{key} {now[key]}" for key in other)
            was = ", ".join(f"{key} {self.task.get(key)}" for key in other)
            fix = "repeat its options"
            raise UsageError(expected=f"what it trains: {was}", got=got, fix=fix, where=f"`from_`={self.folder}")

    def keep_trained(
        self, data: ImageDataset, kept: ImageDataset, held: ImageDataset, whole: bool
    ) -> tuple[ImageDataset, ImageDataset]:
        """Both sides of ``data``, so that no picture is measured on that was trained on before.

        Args:
            whole: the training side takes them; else they are left out, as K shots are K.

        Raises:
            DataError: no test picture is left.
        """
        back = self.trained & set(held.digests)
        if not back:
            return kept, held
        held = held.subset(np.flatnonzero([digest not in back for digest in held.digests]))
        if not len(held):
            got, fix = "none", "add pictures, or raise `held_out`"
            raise DataError(expected="test pictures that it has not trained on", got=got, fix=fix, where=data.name)
        if whole:
            wanted = back | set(kept.digests)
            first = {digest: i for i, digest in reversed([*enumerate(data.digests)])}
            all_rows = data.captions is not None  # those of one picture are its captions; else they are copies
            chosen = [d in wanted and (all_rows or first[d] == i) for i, d in enumerate(data.digests)]
            kept = data.subset(np.flatnonzero(chosen))
        return kept, held

    def count_changes(self, kept: ImageDataset, held: ImageDataset) -> dict[str, int]:
        """How many pictures were added, removed, have other texts, and are as they were."""
        was, now = self.texts, {**_texts_of(kept), **_texts_of(held)}
        same = [was[digest] == texts for digest, texts in now.items() if digest in was]
        return {
            "added": len(now) - len(same),
            "removed": len(was) - len(same),
            "changed": same.count(False),
            "same": same.count(True),
        }

    def describe_changes(self, kept: ImageDataset, held: ImageDataset) -> str:
        """The same in one line."""
        n = self.count_changes(kept, held)
        added = f"{number(n['added'], 'picture')} added, {n['removed']:,} removed"
        return f"since {self.folder}: {added}, {n['changed']:,} with other texts, {n['same']:,} as they were"
