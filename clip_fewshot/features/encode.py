"""Pictures or texts in, features out: the one place where pictures meet a backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.config.ranges import require_int
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import normalise
from clip_fewshot.data.pixels import describe_preparation, pixel_batches
from clip_fewshot.errors import UsageError
from clip_fewshot.features.prefix import Prefix, run_suffixes
from clip_fewshot.features.stored_prefix import Inputs, run_cached_prefix
from clip_fewshot.runtime.arrays import as_texts
from clip_fewshot.runtime.files import hash_bytes
from clip_fewshot.runtime.progress import report_steps
from clip_fewshot.types import FeatureSet, FloatArray

ENCODE_BATCH = 32  # 8 to 32 embed equally fast on CPUs; larger batches lose to page faults of fresh outputs
TEXT_BATCH = 16
PICTURES_STAGE = "encode pictures"
STORED_BATCH = 8  # batches of stored states are filled up, see shelving: the smallest that loses no speed wastes least


def image_batches(
    backbone: Backbone, images: ImageDataset, views: int = 1, batch: int | None = None
) -> Iterator[Tensor]:
    """Preprocessed pictures in order, (b * views, 3, h, w); view 1 is the mirror image of view 0.

    Args:
        batch: pictures in each but the last; None: as many as are fast.
    """
    for pixels in pixel_batches(images, backbone.geometry, batch or _fast_batch(backbone, ENCODE_BATCH)):
        plain = torch.from_numpy(normalise(pixels, backbone.mean, backbone.std)).to(backbone.device)
        if views == 2:
            plain = torch.stack([plain, plain.flip(-1)], dim=1).flatten(0, 1)
        yield plain


def _fast_batch(backbone: Backbone, usual: int) -> int:
    """``usual``, or on a CPU the fewer that the image tower wants."""
    return min(usual, backbone.visual.widest) if backbone.device.type == "cpu" else usual


def image_prefix(
    backbone: Backbone,
    images: ImageDataset,
    cuts: Sequence[int],
    views: int = 1,
    memory: int | None = None,
    half: bool = True,
) -> Prefix:
    """Run the frozen image layers once, or not at all where the cache holds their outputs.

    Args:
        cuts: numbers of last layers n whose input to keep, each in [0, n_blocks].
        views: 1, or 2 to keep mirror images too.
        memory: bytes of states held in memory, over which they are mapped from the disk; None: a quarter of RAM.
        half: store states in half precision where the tower bears it.
    """
    require_int(views, "views", 1, 2)
    batch = _fast_batch(backbone, STORED_BATCH if backbone.device.type == "cpu" else 8 * STORED_BATCH)
    inputs = Inputs(
        keys=images.digests,
        batches=lambda rows: image_batches(backbone, images.subset(rows), views, batch),
        batch=batch,
        position=torch.zeros(len(images), dtype=torch.int64),
        views=views,
        # On shelves of its own: what one training asked for must not change the numbers of another.
        about=_about(backbone, "visual") | describe_preparation() | ({} if half else {"single": True}),
        device=backbone.device,
        stage=PICTURES_STAGE,
    )
    with backbone.autocast():
        return run_cached_prefix(backbone.visual, inputs, cuts, memory, half)


def text_prefix(backbone: Backbone, texts: Sequence[str], cuts: Sequence[int], truncate: bool = False) -> Prefix:
    """Run the frozen text layers once over each distinct text; ``cuts`` are those of the text tower."""
    tokens = backbone.trim(backbone.tokenize(list(texts), truncate))
    inputs = Inputs(
        keys=[hash_bytes(row.numpy().tobytes()) for row in tokens],
        batches=lambda rows: iter(torch.split(tokens[torch.as_tensor(rows)].to(backbone.device), TEXT_BATCH)),
        batch=TEXT_BATCH,
        position=backbone.text.ends(tokens),
        views=1,
        about=_about(backbone, "text") | {"length": tokens.shape[1]},
        device=backbone.device,
        stage="encode texts",
    )
    with backbone.autocast():
        return run_cached_prefix(backbone.text, inputs, cuts)


def _about(backbone: Backbone, tower: str) -> dict[str, str]:
    """What decides the states of an input besides the input."""
    with backbone.autocast():
        kind = backbone.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
    return {"backbone": backbone.digest, "tower": tower, "computed": f"{kind} {precision}"}


def image_features(
    backbone: Backbone, images: ImageDataset, suffixes: Sequence[tuple[int, nn.Module]]
) -> list[FloatArray]:
    """Features (n, d) of all pictures under each tuned suffix, in one pass through the frozen layers."""
    if len(images) == 0:
        return [torch.empty(0, backbone.visual.out_features).numpy() for _ in suffixes]
    batch = _fast_batch(backbone, ENCODE_BATCH)
    batches = report_steps(image_batches(backbone, images, batch=batch), PICTURES_STAGE, len(images), batch)
    with backbone.autocast():
        return [f.numpy() for f in run_suffixes(backbone.visual, batches, suffixes)]


def encode_images(backbone: Backbone, images: ImageDataset) -> FeatureSet:
    """Features of the untuned image tower, (n, d) float32, not normalised; those of known pictures from the cache.

    Args:
        backbone: from :func:`load_backbone`.
        images: n pictures; labels are not looked at.

    Example:
        >>> import clip_fewshot as cf
        >>> digits = cf.read_dataset("digits").subset(range(5))
        >>> found = cf.encode_images(cf.load_backbone("mini"), digits)
        >>> found.features.shape, len(found.digests)
        ((5, 128), 5)
    """
    given: object = images
    if not isinstance(given, ImageDataset):
        fix = "pass read_images(paths), or what a sealed set opens"
        raise UsageError(expected="an ImageDataset", got=f"a {type(images).__name__}", fix=fix, where="images")
    nothing = np.empty((0, backbone.visual.out_features), np.float32)
    return FeatureSet(
        features=image_prefix(backbone, images, []).frozen_features().cpu().numpy() if len(images) else nothing,
        digests=images.digests,
        backbone=backbone.digest,
        labels=images.labels,
        label_space=images.label_space,
    )


def encode_texts(backbone: Backbone, texts: Sequence[str], truncate: bool = False) -> FloatArray:
    """Features of the untuned text tower, (n, d) float32, not normalised; those of known texts from the cache.

    Args:
        backbone: from :func:`load_backbone`.
        texts: n of them.
        truncate: cut texts over the context length instead of refusing them.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.encode_texts(cf.load_backbone("mini"), ["a zero", "a one", "a two"]).shape
        (3, 128)
    """
    return text_prefix(backbone, as_texts(texts, "texts"), [], truncate).frozen_features().cpu().numpy()
