"""Pictures named one by one, or by the folder they lie in, to be judged by a model: no classes, no training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from clip_fewshot.data.dataset import ImageDataset, SkippedImage
from clip_fewshot.data.folder import walk
from clip_fewshot.data.naming import first_of, shown
from clip_fewshot.data.verify import check_pictures
from clip_fewshot.errors import DataError
from clip_fewshot.types import LabelSpace


def read_images(places: Sequence[str | Path]) -> ImageDataset:
    """The pictures at ``places`` in the order given, each once and unlabelled.

    Args:
        places: picture files, and folders of which every picture is taken, at whatever depth.

    Returns:
        What could be read; ``skipped`` lists the rest by reason, files that are not there among them.

    Raises:
        DataError: nothing can be read, or a folder cannot be listed.
    """
    pictures = readable(path for place in places for path in _pictures(Path(place)))
    if not len(pictures):
        lines = [f"[{item.reason}] {shown(item.path)}: {item.detail}" for item in pictures.skipped]
        got = f"{len(lines)} that cannot be read:{first_of(lines)}\n" if lines else "folders without pictures"
        raise DataError("a picture that can be read", got, "check the paths", ", ".join(map(shown, places[:3])))
    return pictures


def readable(paths: Iterable[Path]) -> ImageDataset:
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
        skipped=tuple(SkippedImage(str(path), error.reason, error.got) for path, error in errors),
    )


def _pictures(place: Path) -> list[Path]:
    return [place / path for path in walk(place).pictures] if place.is_dir() else [place]
