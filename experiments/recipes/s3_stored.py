"""Two locked encoders whose features are at hand, and the projections that training brings into one space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.contrastive.distillation import SelfDistillation
from clip_fewshot.contrastive.gradients import contrastive_gradients
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.batch import PairBatch, caption_ids
from clip_fewshot.features.encode import encode_images, encode_texts
from clip_fewshot.geometry import unit_rows
from clip_fewshot.optim.adamw import AdamW, group_parameters
from clip_fewshot.optim.schedule import warmup_cosine_factor
from clip_fewshot.protocol.retrieval import find_candidates
from clip_fewshot.runtime.rng import generator
from clip_fewshot.types import BoolArray, FloatArray, IndexArray
from experiments.recipes.s3_written import WrittenDistillation

EPOCHS, BATCH, RATE, DECAY, WARMUP, CLIP_NORM = 20, 512, 3e-3, 0.1, 0.1, 1.0  # those of train_paired
Objective = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]


class Projections(nn.Module):
    """A linear layer behind each of two encoders; what :func:`contrastive_gradients` wants of a model."""

    def __init__(self, visual: nn.Module, text: nn.Module, logit_scale: Tensor) -> None:
        super().__init__()
        self.visual, self.text = visual, text
        self.logit_scale = nn.Parameter(logit_scale.detach().float().clone())

    def encode_image(self, images: Tensor) -> Tensor:
        """(n, d) stored features -> (n, d')."""
        features: Tensor = self.visual(images)
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """The same of texts."""
        features: Tensor = self.text(tokens)
        return features

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device


class Held(NamedTuple):
    """Stored features of the pictures and captions kept out, and which belong together."""

    pictures: Tensor
    captions: Tensor
    belongs: BoolArray

    @torch.no_grad()
    def cosines(self, model: Projections) -> FloatArray:
        """(pictures, captions)."""
        pictures, captions = model.encode_image(self.pictures), model.encode_text(self.captions)
        return np.asarray(unit_rows(pictures.cpu().numpy()) @ unit_rows(captions.cpu().numpy()).T)


@dataclass(frozen=True)
class Stored:
    """Captioned pictures behind locked encoders.

    Attributes:
        pictures: (n, d) features of the distinct pictures.
        captions: (rows, d') features of the captions, row by row.
        ids: (rows,) equal for equal captions.
        rows: rows of each picture.
    """

    pictures: Tensor
    captions: Tensor
    ids: Tensor
    rows: list[IndexArray]

    def batches(self, seed: int) -> Iterator[PairBatch]:
        """Those of all epochs: every picture once in each, beside one of its captions."""
        for epoch in range(EPOCHS):
            draw, n = generator(seed, "pairs of an epoch", epoch), len(self.rows)
            caption = np.array([own[draw.integers(len(own))] for own in self.rows])
            for items in np.array_split(draw.permutation(n), ceil(n / BATCH)):
                texts = torch.from_numpy(caption[items])
                yield PairBatch(self.pictures[items], self.captions[texts], self.ids[texts])


def locked(model: Backbone) -> tuple[Backbone, Projections]:
    """(the encoders, what trains): a pair's projections, or for a CLIP the identity behind its own."""
    if isinstance(model, PairBackbone):
        return model.trunks(), Projections(model.visual.projection, model.text.projection, model.logit_scale)
    image, text = (nn.Linear(t.out_features, t.out_features, bias=False) for t in (model.visual, model.text))
    for layer in (image, text):
        nn.init.eye_(layer.weight)
    return model, Projections(image, text, model.logit_scale).to(model.device)


def stored(encoders: Backbone, data: ImageDataset) -> Stored:
    """Run the encoders once."""
    captions = list(data.captions or ())
    _, first, picture_of = np.unique(data.digests, return_index=True, return_inverse=True)
    return Stored(
        torch.from_numpy(encode_images(encoders, data.subset(first)).features).to(encoders.device),
        torch.from_numpy(encode_texts(encoders, captions)).to(encoders.device),
        caption_ids(encoders.tokenize(captions)),
        [np.flatnonzero(picture_of == i) for i in range(len(first))],
    )


def held(encoders: Backbone, data: ImageDataset) -> Held:
    """The same of what is kept out."""
    among = find_candidates(encoders, data)
    pictures = torch.from_numpy(encode_images(encoders, among.pictures).features)
    captions = torch.from_numpy(encode_texts(encoders, among.captions))
    return Held(pictures.to(encoders.device), captions.to(encoders.device), among.belongs)


def train(
    model: Projections, data: Stored, objective: Objective, seed: int, on_step: Callable[[], None] | None = None
) -> Projections:
    """``model``, in place; what of the objective looks at batches and weights sees them."""
    teaching = objective if isinstance(objective, SelfDistillation | WrittenDistillation) else None
    optimizer = AdamW(group_parameters([(model, RATE)], DECAY), CLIP_NORM)
    total = EPOCHS * ceil(len(data.rows) / BATCH)
    for step, batch in enumerate(data.batches(seed)):
        if teaching is not None:
            teaching.prepare(batch)
        contrastive_gradients(model, batch, objective)
        optimizer.step(warmup_cosine_factor(step, total, WARMUP))
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100)))
        if teaching is not None:
            teaching.after_step(model)
        if on_step is not None:
            on_step()
    return model
