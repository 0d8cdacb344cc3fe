"""Pictures handed over as paths or as objects, without a source to read them from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from clip_fewshot.data.dataset import ImageDataset, SkippedImage
from clip_fewshot.data.decode import upright_rgb
from clip_fewshot.data.folder import Tree, list_passed, walk
from clip_fewshot.data.given import IndexedRows, unpack_images
from clip_fewshot.data.image import pixel_digest
from clip_fewshot.data.names import escape, list_first, number, refuse_names
from clip_fewshot.data.picture_files import read_regular
from clip_fewshot.data.sampling import SealedSet
from clip_fewshot.data.verify import check_pictures, list_decisions
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.arrays import without_torch
from clip_fewshot.runtime.files import hash_bytes
from clip_fewshot.runtime.reading import as_path
from clip_fewshot.types import LabelSpace

Images = ImageDataset | SealedSet | Iterable[Any] | IndexedRows
LABELLED = ("fit", "score", "plot_confusion", "plot_reliability")  # purposes that take the labels of a source


def collect_images(images: Images, labels: Iterable[object] | None = None, purpose: str = "predict") -> ImageDataset:
    """A dataset of the given pictures; a dataset is passed through, a sealed one is opened for ``purpose``.

    Args:
        images: a dataset, a sealed set, or what :func:`~clip_fewshot.data.given.unpack_images` takes.
        labels: a class name per picture, before those of the source; not for the first two. Whole numbers, yes and no
            become names.

    Raises:
        UsageError: what is no picture, or no label of each.
    """
    if isinstance(images, SealedSet):
        images = images.open(purpose)
    if isinstance(images, ImageDataset):
        if labels is not None and not _repeats(images, labels):
            expected, fix = "labels inside the dataset", "leave `labels` out, or pass `images.images`"
            raise UsageError(expected=expected, got="others beside it", fix=fix, where="labels")
        refuse_names(images.label_space.names, images.name)
        return images
    single = isinstance(images, str | Path | Image.Image | Mapping)
    if single or not (isinstance(images, Iterable) or (hasattr(images, "__getitem__") and hasattr(images, "__len__"))):
        got, fix = _describe_single(images)
        raise UsageError(expected="a list of pictures", got=got, fix=fix, where="images")
    given = unpack_images(images)
    labels = given.labels if labels is None and purpose in LABELLED else labels
    return _build_dataset(given.pictures, None if labels is None else list_labels(labels, len(given.pictures)))


def _describe_single(images: Any) -> tuple[str, str]:
    """What was given in place of several pictures, and what to do."""
    if isinstance(images, str | Path):
        return f"one path {str(images)!r}", "use read_dataset(path) or [path]"
    if isinstance(images, Image.Image):
        return "one picture", "write [picture]"
    if isinstance(images, Mapping):  # of Hugging Face a dict of splits
        return f"a {type(images).__name__} of {', '.join(map(str, images))[:100]}", "pass one of them"
    return f"a {type(images).__name__}", "use read_dataset(path) or [path]"


def _repeats(images: ImageDataset, labels: Iterable[object]) -> bool:
    """Whether ``labels`` are those of the set; scikit-learn passes them beside it."""
    own = None if images.labels is None else images.label_space.decode(images.labels)
    return own == [*map(str, labels)]


def _build_dataset(given: Sequence[Path | Image.Image], labels: Sequence[str] | Sequence[int] | None) -> ImageDataset:
    names = tuple(f"image {i}" if isinstance(p, Image.Image) else str(p) for i, p in enumerate(given))
    pictures = tuple(
        upright_rgb(p, name) if isinstance(p, Image.Image) else p for p, name in zip(given, names, strict=True)
    )
    classes: list[Any] = sorted({*(labels or ())})
    space = LabelSpace(tuple(map(str, classes)), numbers=any(type(one) is int for one in classes))
    refuse_names(space.names, "labels")
    return ImageDataset(
        name="given pictures",
        images=pictures,
        names=names,
        labels=None if labels is None else space.encode(map(str, labels)),
        label_space=space,
        captions=None,
        partition=("",) * len(pictures),
        digests=tuple(_digest(picture) for picture in pictures),
    )


def list_labels(labels: Iterable[object], n: int) -> list[str] | list[int]:
    """``n`` texts, or whole numbers; yes and no as they print.

    Raises:
        UsageError: another number of labels, one text in place of a list, or what is no name, such as None or 1.5;
            labels of two types, as 1 and "1" print alike.
    """
    fix = "give one text or whole number per picture"
    if isinstance(labels, str | Mapping) or not isinstance(labels, Iterable):
        raise UsageError(expected="a list of labels", got=f"a {type(labels).__name__}", fix=fix, where="labels")
    values = [label.item() if getattr(label, "ndim", 1) == 0 else label for label in without_torch([*labels])]
    if len(values) != n:
        raise UsageError(
            expected=number(n, "label"), got=f"{len(values):,} for {number(n, 'picture')}", fix=fix, where="labels"
        )
    wrong = [label for label in values if not isinstance(label, str | int)]
    if wrong:
        raise UsageError(expected="texts or whole numbers", got=repr(wrong[0])[:60], fix=fix, where="labels")
    kinds = sorted({"str" if isinstance(label, str) else type(label).__name__ for label in values})
    if len(kinds) > 1:
        raise UsageError(expected="labels of one type", got=" and ".join(kinds), fix=fix, where="labels")
    return values if kinds == ["int"] else [str(label) for label in values]


def _digest(picture: Path | Image.Image) -> str:
    return hash_bytes(read_regular(picture)) if isinstance(picture, Path) else pixel_digest(picture)


def join_images(parts: Sequence[ImageDataset]) -> ImageDataset:
    """The pictures of several sets, at least one, in one unlabelled row."""
    return ImageDataset(
        name=" + ".join(dict.fromkeys(part.name for part in parts)),
        images=tuple(chain.from_iterable(part.images for part in parts)),
        names=tuple(chain.from_iterable(part.names for part in parts)),
        labels=None,
        label_space=LabelSpace(()),
        captions=None,
        partition=tuple(chain.from_iterable(part.partition for part in parts)),
        digests=tuple(chain.from_iterable(part.digests for part in parts)),
    )


def read_images(places: Sequence[str | Path]) -> ImageDataset:
    """The pictures at ``places`` in the order given, each once and unlabelled.

    Args:
        places: picture files, and folders of which every picture is taken, at whatever depth.

    Returns:
        What could be read; ``skipped`` lists the rest by reason, files that are not there among them, and ``warnings``
        counts what is no picture.

    Raises:
        DataError: nothing can be read, or a folder cannot be listed.

    Example:
        >>> from PIL import Image
        >>> import clip_fewshot as cf
        >>> Image.new("RGB", (40, 30)).save("black.png")
        >>> cf.read_images(["black.png"])
        ImageDataset('given pictures', 1 image, 0 classes)
    """
    if isinstance(places, str | Path):
        fix = "write [path]"
        raise UsageError(expected="a list of paths", got=f"one path {str(places)!r}", fix=fix, where="places")
    paths = [as_path(place, "places") for place in places]
    trees = {place: walk(place) for place in paths if os.path.isdir(place)}
    pictures = keep_readable(path for place in paths for path in _pictures(place, trees))
    passed = sum((tree.passed(tree.texts) for tree in trees.values()), Counter[str]())
    pictures = replace(pictures, warnings=(*pictures.warnings, *list_passed(passed)))
    if not len(pictures):
        lines = [f"[{item.reason}] {escape(item.path)}: {item.detail}" for item in pictures.skipped]
        got = f"{len(lines)} that cannot be read:{list_first(lines)}\n" if lines else "folders without pictures"
        expected = "a picture that can be read"
        raise DataError(expected=expected, got=got, fix="check the paths", where=", ".join(map(escape, paths[:3])))
    return pictures


def list_warnings(pictures: ImageDataset) -> list[str]:
    """What a reader should know: the warnings of the source, and by reason how many pictures could not be read."""
    first = {skipped.reason: skipped for skipped in reversed(pictures.skipped)}
    reasons = Counter(skipped.reason for skipped in pictures.skipped)
    unread = [
        f"{number(n, 'unreadable picture')}: {reason}, the first: {first[reason].path} ({first[reason].detail})"
        for reason, n in sorted(reasons.items())
    ]
    return [*pictures.warnings, *unread]


def keep_readable(paths: Iterable[Path]) -> ImageDataset:
    """The picture files among ``paths``, each once and unlabelled; ``skipped`` lists the rest. There may be none."""
    checked = check_pictures(paths)
    kept = [path for path, result in checked.items() if result.error is None]
    errors = [(path, result.error) for path, result in checked.items() if result.error is not None]
    return ImageDataset(
        name="given pictures",
        images=tuple(kept),
        names=tuple(map(str, kept)),
        labels=None,
        label_space=LabelSpace(()),
        captions=None,
        partition=("",) * len(kept),
        digests=tuple(checked[path].digest for path in kept),
        skipped=tuple(SkippedImage(str(path), error.reason, error.detail) for path, error in errors),
        warnings=tuple(list_decisions({path: checked[path] for path in kept})),
    )


def _pictures(place: Path, trees: Mapping[Path, Tree]) -> list[Path]:
    return [place / path for path in trees[place].pictures] if place in trees else [place]
