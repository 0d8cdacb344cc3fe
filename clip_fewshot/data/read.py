"""From a source on disk to a dataset, each picture checked once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from clip_fewshot.data.class_names import ClassNames, rename_classes
from clip_fewshot.data.dataset import ImageDataset, SkippedImage
from clip_fewshot.data.formats import Format, list_source
from clip_fewshot.data.listing import Listing, refuse_any
from clip_fewshot.data.names import escape, sort_key
from clip_fewshot.data.verify import Checked, check_listing
from clip_fewshot.errors import UsageError
from clip_fewshot.types import LabelSpace


def read_dataset(
    source: str | Path,
    *,
    format: str | Format | None = None,
    strict: bool = False,
    max_skipped: float | None = None,
    class_names: ClassNames | None = None,
) -> ImageDataset:
    """Read a built-in set or a folder, list, table or tar archive of pictures, and check every picture once.

    Args:
        source: ``"digits"``, ``"digits-wild"``, or a path; of tar shards also a pattern as ``pairs-{000..031}.tar``.
        format: a key of ``FORMATS``, the name of an entry point, "python:MODULE:NAME" or a :class:`Format` of your own;
            None recognises those of the library.
        strict: also skip pictures that need a decision: the first frame of several, an extension that lies, a
            reduced decode. Otherwise they are used with a warning.
        max_skipped: greatest fraction of pictures, in [0, 1], that may be unreadable. None: 1 %, but one
            picture at least, so that a single broken photo never stops a small set.
        class_names: other names for the classes, or a file of them, as in
            :func:`~clip_fewshot.data.class_names.rename_classes`; None keeps those of the source.

    Raises:
        DataError: a source that cannot be used; every offender is named with file and line.
        UsageError: an unknown format, or an empty name.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.read_dataset("digits")
        ImageDataset('digits', 1797 images, 10 classes)
    """
    found = _read(source, format, strict, max_skipped)
    return found if class_names is None else rename_classes(found, class_names)


def _read(source: str | Path, format: str | Format | None, strict: bool, max_skipped: float | None) -> ImageDataset:
    from clip_fewshot.data.builtin import BUILTIN  # imports scikit-learn, which a folder of photos does not need

    if not str(source):  # which would mean the current folder
        fix = "name a folder or a table; . is the current folder"
        raise UsageError(expected="pictures", got="an empty name", fix=fix, where="`data`")
    if str(source) in BUILTIN and format is None:
        return BUILTIN[str(source)]()
    listing = list_source(Path(source), format)
    checked, warnings = check_listing(listing, strict, max_skipped)
    return _from_listing(listing, checked, tuple(warnings))


def _from_listing(listing: Listing, checked: Mapping[Path, Checked], warnings: tuple[str, ...]) -> ImageDataset:
    errors = [(path, result.error) for path, result in checked.items() if result.error is not None]
    kept = [entry for entry in listing.entries if checked[entry.path].error is None]
    labels = [entry.label for entry in kept if entry.label is not None]
    captions = tuple(entry.caption for entry in kept if entry.caption is not None)
    space = LabelSpace(listing.class_names or tuple(sorted(set(labels), key=sort_key)))
    present = set(labels)
    empty = [escape(name) for name in space.names if name not in present]
    refuse_any(empty, "a readable picture of every class", "repair the pictures of these classes", listing.source)
    return ImageDataset(
        name=listing.source.resolve().stem,
        images=tuple(entry.path for entry in kept),
        names=tuple(entry.name for entry in kept),
        labels=space.encode(labels) if labels else None,
        label_space=space,
        captions=captions or None,
        partition=tuple(entry.partition for entry in kept),
        digests=tuple(checked[entry.path].digest for entry in kept),
        skipped=tuple(SkippedImage(str(path), error.reason, error.got) for path, error in errors),
        warnings=warnings,
        origins=tuple(entry.where or escape(entry.name) for entry in kept),
    )
