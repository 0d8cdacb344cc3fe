"""What a fine-tuning trains on and what it is measured on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.contrastive.jobs import FineTuningJob
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.split import split_pairs
from clip_fewshot.data.pairs.stream import PairStream
from clip_fewshot.data.sampling import split_open_world
from clip_fewshot.errors import UsageError
from clip_fewshot.protocol.caption_categories import add_categories
from clip_fewshot.protocol.fine_tuning_task import EarlierRun


class FineTuningSides(NamedTuple):
    """The pictures of a fine-tuning.

    Attributes:
        data: all that was read.
        kept, held: the training side and the test side.
        earlier: the run to go on from; no picture of ``held`` was trained on there.
    """

    data: ImageDataset
    kept: ImageDataset
    held: ImageDataset
    earlier: EarlierRun | None

    def counts(self) -> dict[str, int]:
        """Distinct pictures of each side."""
        return {"training": len(set(self.kept.digests)), "test": len(set(self.held.digests))}


def divide(job: FineTuningJob, data: ImageDataset, model: Backbone) -> tuple[FineTuningSides, tuple[str, ...]]:
    """The sides, and warnings: the source's own parts, or by a hash of the content.

    Raises:
        DataError: captions that are too long, too few pictures, or none to measure on.
        UsageError: `per_class` beside captions.
    """
    kept, held, warnings = _divide(job, data, model)
    earlier = None if job.from_ is None else EarlierRun.read(Path(job.from_))
    if earlier is not None:
        kept, held = earlier.keep_trained(data, kept, held, whole=job.per_class is None)
    return FineTuningSides(data, kept, held, earlier), warnings


def _divide(
    job: FineTuningJob, data: ImageDataset, model: Backbone
) -> tuple[ImageDataset, ImageDataset, tuple[str, ...]]:
    if data.captions is None:
        split = split_open_world(data, shots=job.per_class or 1, seed=job.seed, test_fraction=job.held_out)
        kept = split.support if job.per_class else split.pool
        return kept, split.test.open("zero-shot accuracy"), tuple(split.warnings)
    if job.per_class is not None:
        fix = "leave it out"
        raise UsageError(expected="pictures with classes", got="captions", fix=fix, where="`per_class`")
    PairStream(data, model, batch=1, seed=0, truncate=job.truncate)  # names captions that are too long, of both
    pictures = len(set(data.digests))
    return *split_pairs(data, max(1, round(job.held_out * pictures)), job.seed), ()


def head_sides(
    job: FineTuningJob, sides: FineTuningSides, model: Backbone
) -> tuple[FineTuningSides, dict[str, Any] | None]:
    """The sides with the categories that ``job`` asks for, and how often predicted ones are right.

    Raises:
        DataError: captions that are too long with them, or no categories.
    """
    found = add_categories(sides.kept, sides.held, job.category, model, seed=job.seed, truncate=job.truncate)
    for part in (found.kept, found.held) if job.category != "none" else ():
        PairStream(part, model, batch=1, seed=0, truncate=job.truncate)
    data = sides.data
    if job.category == "predicted":  # the classes of the test side decide nothing; the others are in the checkpoint
        data = replace(data, labels=None)
    return sides._replace(data=data, kept=found.kept, held=found.held), found.right
