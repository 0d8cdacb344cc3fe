"""Two encoders brought into one space, on states that their frozen layers leave behind once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import MAX_LOG_SCALE
from clip_fewshot.backbones.encoder_tower import EncoderTower
from clip_fewshot.backbones.pair import PairBackbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.split import Pictures, group_captions
from clip_fewshot.errors import DataError, DivergedError, UsageError
from clip_fewshot.features.encode import image_prefix, text_prefix
from clip_fewshot.features.prefix import Prefix
from clip_fewshot.geometry import normalise
from clip_fewshot.losses import symmetric_cross_entropy
from clip_fewshot.optim.adamw import AdamW, ParameterGroup, group_parameters
from clip_fewshot.optim.schedule import warmup_cosine_factor
from clip_fewshot.runtime import rng
from clip_fewshot.types import IndexArray


@dataclass(frozen=True)
class PairedOptions:
    """How a pair is trained.

    Attributes:
        epochs: passes over the pictures; each draws one caption of every picture.
        batch: pairs per step, at most. On 800 photos two steps an epoch at 3e-3 found more than seven at 1e-3: .556 to
            .533, the mean of recall@1 and @5 both ways over three held-out sets of 100 photos.
        learning_rate: peak, of the projections and the logit scale.
        layers_rate: peak, of unfrozen layers. MiniLM's last layer at 3e-5 found no more than the locked encoder.
        weight_decay: on matrices.
        warmup: share of the steps with rising rates, in [0, 1].
        clip_norm: largest norm of the whole gradient.
        seed: of batches and captions.
    """

    epochs: int = 20
    batch: int = 512
    learning_rate: float = 3e-3
    layers_rate: float = 3e-4
    weight_decay: float = 0.1
    warmup: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or min(self.learning_rate, self.layers_rate, self.clip_norm) <= 0:
            expected = "epochs > 0, batch > 1, rates > 0, clip_norm > 0"
            raise UsageError(expected=expected, got=f"{self}", fix="change it", where="options")


class EpochReport(NamedTuple):
    """The mean loss of an epoch's steps, and the factor on the cosines at its end."""

    epoch: int
    loss: float
    scale: float


def train_paired(
    pair: PairBackbone,
    data: ImageDataset,
    options: PairedOptions | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
) -> PairBackbone:
    """Train a pair's projections and unfrozen layers in place, contrastively; locked encoders run once per input.

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, figure 3, with
    targets shared by equal captions. Where a whole encoder trains there is nothing to store: see ``train_contrastive``.

    Args:
        pair: the number of its layers that train was set when it was built.
        data: pictures with captions, a row per caption.
        options: default :class:`PairedOptions`.
        on_epoch: called after each epoch.

    Raises:
        UsageError: a stem that trains.
        DataError: no captions, or fewer than two pictures.
        DivergedError: the loss stopped being finite.

    Example:
        >>> from dataclasses import replace
        >>> import torch
        >>> import clip_fewshot as cf
        >>> from clip_fewshot.backbones.encoders import TextEncoder
        >>> from clip_fewshot.contrastive.paired import PairedOptions
        >>> class Words(torch.nn.Embedding):
        ...     def forward(self, ids, mask):
        ...         return super().forward(ids)
        >>> def letters(text):
        ...     return [ord(letter) % 31 + 1 for letter in text]
        >>> layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ReLU())
        >>> pair = cf.PairBackbone(cf.ImageEncoder(layers, size=32), TextEncoder(Words(32, 8), letters), dim=16)
        >>> digits = cf.read_dataset("digits").subset(range(50))
        >>> pairs = replace(digits, captions=tuple(digits.label_space.decode(digits.labels)))
        >>> losses = []
        >>> trained = cf.train_paired(pair, pairs, PairedOptions(epochs=5), losses.append)
        >>> losses[-1].loss < losses[0].loss
        True
    """
    options = options or PairedOptions()
    stored = _store(pair, data)
    optimizer = AdamW(_groups(pair, options), options.clip_norm)
    steps = options.epochs * math.ceil(stored.pictures.n / options.batch)
    step = 0
    pair.train()
    for epoch in range(options.epochs):
        losses = []
        for pictures, captions in _batches(stored, options, epoch):
            losses.append(_loss(pair, stored, pictures, captions))
            optimizer.zero_grad()
            losses[-1].backward()  # type: ignore[no-untyped-call]
            optimizer.step(warmup_cosine_factor(step, steps, options.warmup))
            with torch.no_grad():
                pair.logit_scale.clamp_(max=MAX_LOG_SCALE)
            step += 1
        loss = float(torch.stack(losses).detach().mean())
        if not math.isfinite(loss):
            got = f"{loss} in epoch {epoch}"
            raise DivergedError(expected="a finite loss", got=got, fix="lower the learning rates", where="training")
        if on_epoch is not None:
            on_epoch(EpochReport(epoch, loss, float(pair.logit_scale.detach().exp())))
    return pair.eval()


class _Stored(NamedTuple):
    """What the frozen layers left behind.

    Attributes:
        images: of the distinct pictures.
        texts: of the distinct captions.
        pictures: which rows of the data belong to each picture.
        caption: (rows,) the number of each row's caption.
    """

    images: Prefix
    texts: Prefix
    pictures: Pictures
    caption: IndexArray


def _store(pair: PairBackbone, data: ImageDataset) -> _Stored:
    image, text = pair.visual.unfrozen, pair.text.unfrozen
    if image is None or text is None:
        fix = "use train_contrastive"
        raise UsageError(expected="towers with a frozen stem", got="a whole tower that trains", fix=fix, where="pair")
    pictures = group_captions(data)
    if pictures.n < 2:
        raise DataError(expected="two pictures or more", got="one", fix="give more pairs", where=data.name)
    number = {caption: i for i, caption in enumerate(dict.fromkeys(data.captions or ()))}
    caption = np.array([number[caption] for caption in data.captions or ()], np.int64)
    trunks = pair.eval().trunks()
    images = image_prefix(trunks, data.subset(pictures.rows[pictures.starts[:-1]]), [image])
    return _Stored(images, text_prefix(trunks, list(number), [text]), pictures, caption)


def _groups(pair: PairBackbone, options: PairedOptions) -> list[ParameterGroup]:
    """The unfrozen layers at their rate, everything of ours at its own."""
    ours = nn.ModuleList([pair.visual.projection, pair.text.projection])
    layers = nn.ModuleList([part for tower in (pair.visual, pair.text) for part in (*tower.blocks, tower.pool)])
    groups = group_parameters([(ours, options.learning_rate), (layers, options.layers_rate)], options.weight_decay)
    return [*groups, ParameterGroup([pair.logit_scale], options.learning_rate, 0.0)]


def _batches(stored: _Stored, options: PairedOptions, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(pictures, captions) of one epoch: every picture once, beside one of its captions."""
    draw, n = rng.generator(options.seed, "paired", epoch), stored.pictures.n
    order, captions = draw.permutation(n), stored.caption[stored.pictures.draw(draw.random(n))]
    for items in np.array_split(order, math.ceil(n / options.batch)):  # of nearly one size: no step on a single pair
        yield torch.from_numpy(items), torch.from_numpy(captions[items])


def _loss(pair: PairBackbone, stored: _Stored, pictures: Tensor, captions: Tensor) -> Tensor:
    with pair.autocast():
        images = normalise(_features(pair.visual, stored.images, pictures).float())
        texts = normalise(_features(pair.text, stored.texts, captions).float())
    return symmetric_cross_entropy(pair.logit_scale.exp() * images @ texts.T, captions.to(pair.device))


def _features(tower: EncoderTower, prefix: Prefix, items: Tensor) -> Tensor:
    """What the tower makes of stored inputs."""
    n = tower.unfrozen or 0
    features: Tensor = tower.finish(prefix.rows(n, items), n) if n else tower.projection(prefix.frozen_features(items))
    return features
