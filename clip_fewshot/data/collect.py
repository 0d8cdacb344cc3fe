"""Pictures handed over as paths or as objects, without a source to read them from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from PIL import Image

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import pixel_digest, read_regular
from clip_fewshot.data.sampling import SealedSet
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.files import sha256_bytes
from clip_fewshot.types import LabelSpace

Images = ImageDataset | SealedSet | Sequence["str | Path | Image.Image"]


def collect_images(images: Images, labels: Sequence[str] | None = None, purpose: str = "predict") -> ImageDataset:
    """A dataset of the given pictures; a dataset is passed through, a sealed one is opened for ``purpose``.

    Args:
        images: paths or PIL pictures, a dataset, or a sealed set.
        labels: a class name per picture; only for paths and pictures.
    """
    if isinstance(images, SealedSet):
        images = images.open(purpose)
    if isinstance(images, ImageDataset):
        if labels is not None:
            raise UsageError("labels inside the dataset", "labels beside it", "leave `labels` out", "labels")
        return images
    if isinstance(images, str | Path):
        raise UsageError(
            "a list of pictures", f"one path {str(images)!r}", "use read_dataset(path) or [path]", "images"
        )
    pictures = tuple(image if isinstance(image, Image.Image) else Path(image) for image in images)
    names = tuple(f"image {i}" if isinstance(p, Image.Image) else str(p) for i, p in enumerate(pictures))
    space = LabelSpace(tuple(sorted(set(labels)))) if labels is not None else LabelSpace(())
    return ImageDataset(
        name="given pictures",
        images=pictures,
        names=names,
        labels=None if labels is None else space.encode(labels),
        label_space=space,
        captions=None,
        partition=("",) * len(pictures),
        digests=tuple(_digest(picture) for picture in pictures),
    )


def _digest(picture: Path | Image.Image) -> str:
    return sha256_bytes(read_regular(picture)) if isinstance(picture, Path) else pixel_digest(picture)


def join(parts: Sequence[ImageDataset]) -> ImageDataset:
    """The pictures of several sets, at least one, in one unlabelled row; decoded as those of the first."""
    return ImageDataset(
        name=" + ".join(dict.fromkeys(part.name for part in parts)),
        images=tuple(chain.from_iterable(part.images for part in parts)),
        names=tuple(chain.from_iterable(part.names for part in parts)),
        labels=None,
        label_space=LabelSpace(()),
        captions=None,
        partition=tuple(chain.from_iterable(part.partition for part in parts)),
        digests=tuple(chain.from_iterable(part.digests for part in parts)),
        decode=parts[0].decode,
    )
