"""What is measured during a contrastive training, on pairs and pictures that it does not train on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.contrastive.distributed.world import World
from clip_fewshot.contrastive.gradients import encode_in_chunks
from clip_fewshot.contrastive.objectives import symmetric_objective
from clip_fewshot.contrastive.sources import wrap_source
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.batch import PairBatch, PairSource
from clip_fewshot.errors import UsageError
from clip_fewshot.evaluation import metrics
from clip_fewshot.features.encode import image_batches
from clip_fewshot.geometry import normalise
from clip_fewshot.heads.zero_shot import zero_shot_weights

RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class Validation:
    """What to measure, and how often.

    Args:
        pairs: held-out pairs in batches that can be had again, this process's part of each; their first epoch is used.
            None: no loss and no recall. A picture finds a caption that equals its own (``caption_ids``).
        labelled: pictures with classes, the same in all processes; None: no zero-shot accuracy.
        templates: texts with one "{}" for the class name; their features are averaged.
        every: steps between measurements, >= 1; None: at the end of each epoch. The last step is always measured.
    """

    pairs: PairSource | Sequence[PairBatch] | None = None
    labelled: ImageDataset | None = None
    templates: Sequence[str] = TEMPLATES
    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise UsageError(expected="every 1 step or more", got=str(self.every), fix="change it", where="every")
        if self.labelled is not None:
            self.labelled.required_labels()

    def due(self, taken: int, total: int, per_epoch: int) -> bool:
        """Whether to measure after ``taken`` steps."""
        return taken == total or taken % (self.every or per_epoch) == 0


@torch.no_grad()
def validate(model: Backbone, validation: Validation, world: World, chunk: int | None = None) -> dict[str, float]:
    """Fractions in [0, 1] and a loss in nats, the same in all processes; the model is measured in evaluation mode.

    ``loss`` is CLIP's over each batch, the mean over pairs; ``image_to_text_recall@k`` and ``text_to_image_recall@k``
    are over all pairs, a tie counted as a miss; ``zero_shot_accuracy`` is over the labelled pictures.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        figures: dict[str, float] = {}
        if validation.pairs is not None:
            figures |= _on_pairs(model, wrap_source(validation.pairs).batches(0), world, chunk)
        if validation.labelled is not None:
            figures["zero_shot_accuracy"] = _zero_shot(model, validation.labelled, validation.templates, world)
        return figures
    finally:
        for module, mode in modes.items():
            module.training = mode


def _on_pairs(model: Backbone, batches: Iterable[PairBatch], world: World, chunk: int | None) -> dict[str, float]:
    losses, weights, images, texts, ids = [], [], [], [], []
    for picture_part, text_part, id_part in _encoded_batches(model, batches, world, chunk):
        losses.append(float(symmetric_objective(picture_part, text_part, model.logit_scale, id_part)))
        weights.append(len(picture_part))
        images.append(normalise(picture_part))
        texts.append(normalise(text_part))
        ids.append(id_part)
    if not losses:
        raise UsageError(expected="pairs to validate on", got="none", fix="give a batch or more", where="validation")
    alone = any(part is None for part in ids)
    same = torch.arange(sum(weights)) if alone else torch.cat([part for part in ids if part is not None]).cpu()
    similarity = (torch.cat(images) @ torch.cat(texts).T).cpu().numpy()
    true = (same[:, None] == same).numpy()
    found = {"loss": float(np.average(losses, weights=weights))}
    for name, scores, right in (("image_to_text", similarity, true), ("text_to_image", similarity.T, true.T)):
        found |= {f"{name}_recall@{k}": metrics.recall_at_k(right, scores, k) for k in RECALLS}
    return found


def _encoded_batches(
    model: Backbone, batches: Iterable[PairBatch], world: World, chunk: int | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Features of all processes' parts of each batch, and the ids of their captions."""
    for batch in batches:
        images = world.gather(encode_in_chunks(model, model.encode_image, batch.images, chunk))
        texts = world.gather(encode_in_chunks(model, model.encode_text, batch.tokens, chunk))
        yield images, texts, None if batch.caption_ids is None else world.gather(batch.caption_ids.to(images.device))


def _zero_shot(model: Backbone, labelled: ImageDataset, templates: Sequence[str], world: World) -> float:
    mine = labelled.subset(np.arange(world.rank, len(labelled), world.size))
    weights = zero_shot_weights(model, labelled.label_space.names, templates)
    labels, right, start = torch.as_tensor(mine.required_labels()), 0, 0
    for images in image_batches(model, mine) if len(mine) else ():
        guesses = (model.encode_image(images) @ weights.T).argmax(dim=1).cpu()
        right += int((guesses == labels[start : start + len(guesses)]).sum())
        start += len(guesses)
    count = torch.tensor([right], dtype=torch.int64, device=model.device)
    world.sum_([count])
    return int(count) / len(labelled)
