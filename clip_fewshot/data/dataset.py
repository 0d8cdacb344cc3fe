"""A set of pictures with labels or captions, as every later step sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from clip_fewshot.data.cards import CARDS_SHOWN, render_cards
from clip_fewshot.data.decode import decoding, upright_rgb
from clip_fewshot.data.names import escape, number
from clip_fewshot.data.picture_files import reading
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.files import hash_bytes
from clip_fewshot.runtime.result_rows import import_pandas
from clip_fewshot.types import IndexArray, LabelArray, LabelSpace

if TYPE_CHECKING:
    import pandas


class SkippedImage(NamedTuple):
    """A picture that was left out, and why; ``reason`` as of :class:`~clip_fewshot.data.picture_kinds.ImageError`."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset:
    """n pictures. Rows are parallel over all attributes.

    Attributes:
        name: what the set is called in reports.
        images: a path, or a picture in memory, per row.
        names: identifier per row: the path relative to the source, or e.g. ``digits/0017``.
        labels: (n,) indices into ``label_space``, or None.
        label_space: the class names; empty without labels.
        captions: a text per row, or None. A picture with five captions is five rows.
        partition: per row ``"train"`` or ``"test"`` where the source itself says so, else ``""``.
        digests: per row the SHA-256 of the file, or of the pixels of a picture in memory.
        skipped: pictures that could not be read.
        warnings: what was decided on the way, one sentence each.
        origins: per row where the source says so, as ``captions.csv:17``, or None.

    Example:
        >>> import clip_fewshot as cf
        >>> digits: cf.ImageDataset = cf.read_dataset("digits")
        >>> digits.subset([0, 1]).names
        ('digits/0000', 'digits/0001')
        >>> digits.label_space.decode(digits.labels[:2])
        ['zero', 'one']
    """

    name: str
    images: tuple[Path | Image.Image, ...]
    names: tuple[str, ...]
    labels: LabelArray | None
    label_space: LabelSpace
    captions: tuple[str, ...] | None
    partition: tuple[str, ...]
    digests: tuple[str, ...]
    skipped: tuple[SkippedImage, ...] = ()
    warnings: tuple[str, ...] = ()
    origins: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        columns = (self.names, self.labels, self.captions, self.partition, self.digests, self.origins)
        lengths = {len(self.images), *(len(column) for column in columns if column is not None)}
        if len(lengths) != 1:
            expected = "columns of one length"
            raise UsageError(expected=expected, got=f"lengths {sorted(lengths)}", fix="give one value per picture")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        classes = number(len(self.label_space), "class", "classes")
        return f"ImageDataset({self.name!r}, {number(len(self), 'image')}, {classes})"

    def __getitem__(self, row: int) -> Path | Image.Image:
        """The path of a picture, or the picture: scikit-learn takes rows by it."""
        return self.images[row]

    def _repr_html_(self) -> str:
        """One picture a class, or the first ones, for a notebook."""
        if self.labels is None:
            shown = {row: self.names[row] for row in range(min(len(self), CARDS_SHOWN))}
            return render_cards(repr(self), self, shown, len(self) - len(shown))
        counts = self.counts()
        present, first = np.unique(self.labels, return_index=True)
        names = self.label_space.decode(present[:CARDS_SHOWN])
        said = {row: f"{name}: {counts[name]:,}" for row, name in zip(first.tolist(), names, strict=False)}
        return render_cards(repr(self), self, said, len(self) - len(said))

    def to_frame(self) -> pandas.DataFrame:
        """A DataFrame with a row per picture: image (its path, or the picture), name, and what the source says of it.

        That is label, caption and split, where there are any.

        Raises:
            ResourceError: pandas is not installed.
        """
        columns: dict[str, Any] = {"image": list(self.images), "name": self.names}
        if self.labels is not None:
            columns["label"] = self.label_space.to_array()[self.labels]
        if self.captions is not None:
            columns["caption"] = self.captions
        if any(self.partition):
            columns["split"] = self.partition
        frame: pandas.DataFrame = import_pandas().DataFrame(columns)
        return frame

    def required_labels(self) -> LabelArray:
        """The labels, of a set that must have them."""
        if self.labels is None:
            expected, got = "labelled images", "; ".join(["captions or nothing", *self.warnings])
            raise DataError(expected=expected, got=got, fix="use a source with a class per image", where=self.name)
        return self.labels

    def counts(self) -> dict[str, int]:
        """Images per class."""
        per_class = np.bincount(self.required_labels(), minlength=len(self.label_space))
        return dict(zip(self.label_space.names, per_class.tolist(), strict=True))

    def subset(self, rows: IndexArray) -> ImageDataset:
        """The chosen rows in the order given; the classes stay as they are."""
        chosen = [int(i) for i in rows]
        return replace(
            self,
            images=tuple(self.images[i] for i in chosen),
            names=tuple(self.names[i] for i in chosen),
            labels=None if self.labels is None else self.labels[np.asarray(chosen, np.int64)],
            captions=None if self.captions is None else tuple(self.captions[i] for i in chosen),
            partition=tuple(self.partition[i] for i in chosen),
            digests=tuple(self.digests[i] for i in chosen),
            origins=None if self.origins is None else tuple(self.origins[i] for i in chosen),
        )

    def restrict(self, classes: Sequence[str]) -> ImageDataset:
        """The images of ``classes`` alone, labelled by their place in the smaller label space."""
        space = self.label_space.subset(classes)
        labels = self.required_labels()
        rows = np.flatnonzero(np.isin(labels, self.label_space.encode(space.names)))
        kept = self.subset(rows)
        return replace(kept, labels=space.encode(self.label_space.decode(labels[rows])), label_space=space)

    def open(self, i: int) -> Image.Image:
        """Picture ``i`` as RGB.

        Raises:
            ImageError: it cannot be decoded.
            DataError: the file is no longer the one that was read: splits and duplicate checks would be void.
        """
        with self.opened(i) as picture:
            return picture

    @contextmanager
    def opened(self, i: int) -> Iterator[Image.Image]:
        """The same; inside the block the picture counts in the memory that threads share."""
        image = self.images[i]
        if isinstance(image, Image.Image):
            yield upright_rgb(image, self.names[i]).copy()
            return
        with reading(image) as data:
            if hash_bytes(data) != self.digests[i]:
                expected = "the file as it was first read"
                raise DataError(expected=expected, got="other content", fix="read the data again", where=escape(image))
            with decoding(data, image) as decoded:
                yield decoded.image

    def fingerprint(self) -> str:
        """Hex SHA-256 of what is in the set, whatever the files are called and wherever they lie."""
        labels = [""] * len(self) if self.labels is None else self.label_space.decode(self.labels)
        pairs = sorted(zip(self.digests, labels, strict=True))
        text = "".join(f"{digest} {label}\n" for digest, label in pairs)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
