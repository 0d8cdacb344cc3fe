"""Pictures as a network sees them, small enough to keep beside a model: the square that is left after resizing."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.image import Geometry, pixel_digest
from clip_fewshot.data.pixels import Pixels, pixel_batches
from clip_fewshot.types import LabelSpace


def encode_squares(images: ImageDataset, how: Geometry) -> list[bytes]:
    """The square of each picture as PNG: lossless, so a training on it is a training on the picture."""
    return [_png(square) for batch in pixel_batches(images, how.uncut()) for square in batch]


def decode_squares(squares: Sequence[bytes], names: Sequence[str]) -> ImageDataset:
    """Unlabelled pictures in memory. Their digests are of their pixels, not of the files they were cut from."""
    pictures = tuple(Image.open(BytesIO(data), formats=("PNG",)).convert("RGB") for data in squares)
    return ImageDataset(
        name="kept pictures",
        images=pictures,
        names=tuple(names),
        labels=None,
        label_space=LabelSpace(()),
        captions=None,
        partition=("",) * len(pictures),
        digests=tuple(map(pixel_digest, pictures)),
    )


def _png(square: Pixels) -> bytes:
    buffer = BytesIO()
    Image.fromarray(square).save(buffer, "PNG")
    return buffer.getvalue()
