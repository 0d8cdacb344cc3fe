"""What is at hand in a notebook: tables, arrays, tensors, and the datasets of torch, torchvision and Hugging Face.

Known by what they can do and not by their types: none of these packages is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clip_fewshot.data.columns import list_candidates
from clip_fewshot.errors import UsageError
from clip_fewshot.runtime.arrays import without_torch

if TYPE_CHECKING:
    import pandas

CHANNELS = (1, 3, 4)  # grey, RGB, RGB with alpha


class IndexedRows(Protocol):
    """A map-style dataset of torch: rows by their numbers."""

    def __getitem__(self, row: int, /) -> Any:
        """One row."""
        ...

    def __len__(self) -> int: ...


class Given(NamedTuple):
    """Pictures as they were handed over.

    Attributes:
        pictures: paths and PIL pictures.
        labels: one per picture, or None where the source has none.
    """

    pictures: list[Path | Image.Image]
    labels: list[Any] | None


def unpack_images(images: Iterable[Any] | IndexedRows) -> Given:
    """Pictures and, where the source has some, labels.

    Args:
        images: paths, PIL pictures, arrays or tensors, one each; a batch of these; a DataFrame with a column of them; a
            dataset whose rows are (picture, label) or name their columns. Numbers that stand for class names are
            replaced by these.

    Raises:
        UsageError: what is no picture, or no column of pictures.
    """
    rows = _list_rows(images)
    if rows and isinstance(rows[0], Mapping):
        place, label = _find_columns(rows[0])
        _check_alike(rows, lambda row: isinstance(row, Mapping) and {place, label} - {None} <= row.keys())
        pictures, labels = [row[place] for row in rows], None if label is None else [row[label] for row in rows]
    elif rows and isinstance(rows[0], tuple) and len(rows[0]) == 2:
        _check_alike(rows, lambda row: isinstance(row, tuple) and len(row) == 2)
        label, pictures, labels = None, [row[0] for row in rows], [row[1] for row in rows]
    else:
        return Given([_read_picture(row, i) for i, row in enumerate(rows)], None)
    names = _class_names(images, label)
    if names and labels is not None:
        labels = [_name(one, names, i) for i, one in enumerate(labels)]
    return Given([_read_picture(picture, i) for i, picture in enumerate(pictures)], labels)


def is_frame(images: object) -> TypeGuard[pandas.DataFrame]:
    """Whether it is a DataFrame of pandas."""
    return all(hasattr(images, name) for name in ("columns", "itertuples", "isna", "to_dict"))


def _list_rows(images: Any) -> list[Any]:
    if is_frame(images):  # iterated, a frame is the names of its columns
        return list(images.to_dict("records"))
    if hasattr(images, "ndim") and images.ndim != 1:
        whole = 4 if hasattr(images, "detach") or images.shape[-1:] in {(n,) for n in CHANNELS} else 3
        if images.ndim != 4 and images.ndim != whole:
            got, fix = f"an array of shape {tuple(images.shape)}", "write [picture] for one; features are no pictures"
            raise UsageError(expected="pictures (n, h, w, 3)", got=got, fix=fix, where="images")
        return list(images)
    return list(images) if isinstance(images, Iterable) else [images[row] for row in range(len(images))]


def _check_alike(rows: Sequence[Any], is_alike: Callable[[Any], bool]) -> None:
    """Refuse rows that are not of the form of the first."""
    for i, row in enumerate(rows):
        if not is_alike(row):
            got, fix = f"a {type(row).__name__} unlike the first row", "give all rows the same form"
            raise UsageError(expected="rows of one form", got=got, fix=fix, where=f"images[{i}]")


def _find_columns(row: Mapping[Any, Any]) -> tuple[Any, Any]:
    """The keys of pictures and labels; the second is None where there are no labels."""
    keys = list(row)
    names = list(map(str, keys))
    places, labels = list_candidates(names, "image"), list_candidates(names, "label")
    if not places and len(keys) > 1:
        got, fix = ", ".join(names)[:100], "name it image, or pass that column alone"
        raise UsageError(expected="a column of pictures", got=got, fix=fix, where="images")
    return keys[places[0] if places else 0], keys[labels[0]] if labels else None


def _class_names(images: Any, label: Any) -> Sequence[str]:
    """What a dataset calls its numbers: torchvision's ``classes``, also behind a Subset; Hugging Face's ClassLabel."""
    if is_frame(images):  # its columns are attributes too, whatever they are called
        return ()
    features = getattr(images, "features", None)
    if isinstance(features, Mapping):
        return getattr(features.get(label), "names", None) or ()
    return getattr(images, "classes", None) or getattr(getattr(images, "dataset", None), "classes", None) or ()


def _name(label: Any, names: Sequence[str], i: int) -> Any:
    number = label.item() if hasattr(label, "item") else label
    if not isinstance(number, int):
        return label
    if not 0 <= number < len(names):
        got, fix = f"{number}", "check the labels"
        raise UsageError(expected=f"a label in 0..{len(names) - 1}", got=got, fix=fix, where=f"labels[{i}]")
    return names[number]


def _read_picture(image: Any, i: int) -> Path | Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | os.PathLike) and str(image):
        return Path(image)
    if hasattr(image, "ndim") and hasattr(image, "__array__"):
        return _draw_array(np.asarray(without_torch(image)), hasattr(image, "detach"), i)
    fix = "give paths, PIL pictures, or arrays (h, w, 3)"
    got = "an empty path" if isinstance(image, str) else f"a {type(image).__name__}"
    raise UsageError(expected="a path or a picture", got=got, fix=fix, where=f"images[{i}]")


def _draw_array(pixels: NDArray[Any], channels_first: bool, i: int) -> Image.Image:
    """(h, w), (h, w, c) or, of a tensor, (c, h, w); bytes, or fractions in [0, 1]."""
    ends = (0, -1) if channels_first else (-1, 0)
    axis = next((end for end in ends if pixels.ndim == 3 and pixels.shape[end] in CHANNELS), None)
    if pixels.ndim == 3 and axis is not None:
        pixels = np.moveaxis(pixels, axis, -1)
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    if not pixels.size or (pixels.ndim != 2 and axis is None):
        got, fix = f"shape {pixels.shape}", "give (h, w), (h, w, 3) or, as a tensor, (3, h, w)"
        raise UsageError(expected="the pixels of a picture", got=got, fix=fix, where=f"images[{i}]")
    if pixels.dtype.kind not in "buif":
        got, fix = f"{pixels.dtype} values", "give numbers; from a Hugging Face dataset, with_format(None)"
        raise UsageError(expected="the pixels of a picture", got=got, fix=fix, where=f"images[{i}]")
    if pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    if pixels.dtype != np.uint8:
        got = f"{pixels.dtype} from {pixels.min():.3g} to {pixels.max():.3g}"
        fix = "scale them; pictures normalised for another model have lost their colours"
        raise UsageError(expected="bytes, or fractions in [0, 1]", got=got, fix=fix, where=f"images[{i}]")
    return Image.fromarray(np.ascontiguousarray(pixels))
