"""From a source on disk to a dataset, each picture checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from clip_fewshot.config import BUILTIN_DATA
from clip_fewshot.data.class_names import ClassNames, rename_classes
from clip_fewshot.data.collect import Images, collect_images
from clip_fewshot.data.dataset import ImageDataset, SkippedImage
from clip_fewshot.data.formats import Format, list_source
from clip_fewshot.data.given import is_frame
from clip_fewshot.data.listing import Listing, join_sides, refuse_any
from clip_fewshot.data.names import escape, refuse_names, sort_key, to_unicode
from clip_fewshot.data.sampling import SealedSet
from clip_fewshot.data.tables import list_table, table_of
from clip_fewshot.data.verify import Checked, check_listing
from clip_fewshot.errors import UsageError
from clip_fewshot.types import LabelSpace

if TYPE_CHECKING:
    import pandas


def read_dataset(
    source: str | Path | pandas.DataFrame | Images,
    *,
    format: str | Format | None = None,
    root: str | Path | None = None,
    test: str | Path | pandas.DataFrame | None = None,
    columns: Mapping[str, str] | None = None,
    strict: bool = False,
    max_skipped: float | None = None,
    class_names: ClassNames | None = None,
    contradictions: bool = False,
    classes_at: int | None = None,
) -> ImageDataset:
    """Read a built-in set or a folder, list, table or tar archive of pictures, and check every picture once.

    Args:
        source: ``"digits"``, ``"digits-wild"``, or a path; of tar shards also a pattern as ``pairs-{000..031}.tar``; or
            a DataFrame with a row per picture or caption; or pictures at hand with their labels, such as a dataset of
            Hugging Face or torch, see :func:`~clip_fewshot.data.given.unpack_images`, which take no other options.
        format: a key of ``FORMATS``, the name of an entry point, "python:MODULE:NAME" or a :class:`Format` of your own;
            None recognises those of the library.
        root: folder that the paths in a list or table start from. None: the one where all of its files exist, out of
            its own folder, the folders above it and the current one, then those inside and beside it.
        test: a second source, read in the same way: the test side. ``source`` is then the training side.
        columns: of a table, the names of its columns by what they say: ``{"image": "img_paths", "caption": "name",
            "label": "category", "split": "part"}``. Those not named are known by their names, and among several
            names of pictures the column whose files exist is taken.
        strict: also skip pictures that need a decision: the first frame of several, an extension that lies, a
            reduced decode, a decoder that complained. Otherwise they are used with a warning.
        max_skipped: greatest fraction of pictures, in [0, 1], that may be unreadable. None: 5 %, but one
            picture at least, so that a single broken photo never stops a small set.
        class_names: other names for the classes, or a file of them, as in
            :func:`~clip_fewshot.data.class_names.rename_classes`; None keeps those of the source.
        contradictions: leave in what is refused otherwise: one picture on both sides, or under two labels.
        classes_at: depth of the folders that are the classes, from 1 right in ``source``; None: where the tree shows
            it.

    Raises:
        DataError: a source that cannot be used; the offenders are named with file and line.
        UsageError: an unknown format, an empty name, or an option that the source has no use for.

    Example:
        >>> import clip_fewshot as cf
        >>> cf.read_dataset("digits")
        ImageDataset('digits', 1,797 images, 10 classes)
    """
    options = {"root": None if root is None else Path(root), "columns": columns, "classes_at": classes_at}
    found = _read(source, test, format, options, strict, max_skipped, contradictions)
    found = found if class_names is None else rename_classes(found, class_names)
    where = escape(source) if isinstance(source, str | Path) else found.name
    fix = "rename or merge these classes, or name them otherwise by `class_names`"
    alike = refuse_names(found.label_space.names, where, fix)
    return replace(found, warnings=(*found.warnings, *alike)) if alike else found


def _read(
    source: str | Path | pandas.DataFrame | Images,
    test: str | Path | pandas.DataFrame | None,
    format: str | Format | None,
    options: Mapping[str, Any],
    strict: bool,
    max_skipped: float | None,
    contradictions: bool,
) -> ImageDataset:
    if isinstance(source, str) and source in BUILTIN_DATA and format is None:
        return _builtin(source, {**options, "test": test})
    if not isinstance(source, str | Path | SealedSet) and not (is_frame(source) and _names_files(source)):
        _refuse_options({**options, "format": format, "test": test}, "pictures at hand, which have")
        return collect_images(source, purpose="fit")
    listing = _list(source, format, options)
    if test is not None:
        listing = join_sides(listing, _list_test(test, format, options, listing))
    checked, warnings = check_listing(listing, strict, max_skipped, contradictions)
    return _from_listing(listing, checked, tuple(warnings))


def _builtin(name: str, options: Mapping[str, object]) -> ImageDataset:
    from clip_fewshot.data.builtin import BUILTIN  # imports scikit-learn, which a folder of photos does not need

    _refuse_options(options, f"{name}, which has")
    return BUILTIN[name]()


def _refuse_options(options: Mapping[str, object], source: str) -> None:
    for option in (option for option, value in options.items() if value is not None):
        fix = "leave it out, or name pictures on disk"
        raise UsageError(expected="pictures on disk", got=f"{source} no files", fix=fix, where=f"`{option}`")


def _names_files(frame: pandas.DataFrame) -> bool:
    first = frame.iloc[0].tolist() if len(frame) else []
    return not any(isinstance(value, Image.Image) or getattr(value, "ndim", 0) > 1 for value in first)


def _list(source: object, format: str | Format | None, options: Mapping[str, Any]) -> Listing:
    if not isinstance(source, str | Path):
        if not is_frame(source):
            got, fix = f"a {type(source).__name__}", "name a folder or a table, or pass a DataFrame"
            raise UsageError(expected="a path or a DataFrame", got=got, fix=fix, where="`data`")
        if options["classes_at"] is not None:
            fix = "leave it out"
            raise UsageError(expected="a folder of folders", got="a DataFrame", fix=fix, where="`classes_at`")
        return list_table(table_of(source), options["root"], options["columns"])
    if not str(source):  # which would mean the current folder
        fix = "name a folder or a table; . is the current folder"
        raise UsageError(expected="pictures", got="an empty name", fix=fix, where="`data`")
    return list_source(Path(source), format, **options)


def _list_test(
    source: str | Path | pandas.DataFrame, format: str | Format | None, options: Mapping[str, Any], training: Listing
) -> Listing:
    """The second source; beside class folders one folder alone is a class."""
    listing = _list(source, format, options)
    alone = not isinstance(listing.entries[0].label, str) and isinstance(training.entries[0].label, str)
    return _list(source, "folder", options) if alone and listing.source.is_dir() and format is None else listing


def _from_listing(listing: Listing, checked: Mapping[Path, Checked], warnings: tuple[str, ...]) -> ImageDataset:
    errors = [(path, result.error) for path, result in checked.items() if result.error is not None]
    kept = [entry for entry in listing.entries if checked[entry.path].error is None]
    labels = [to_unicode(entry.label) for entry in kept if entry.label is not None]
    captions = tuple(entry.caption for entry in kept if entry.caption is not None)
    space = LabelSpace(tuple(map(to_unicode, listing.class_names or sorted(set(labels), key=sort_key))))
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
        skipped=tuple(SkippedImage(str(path), error.reason, error.detail) for path, error in errors),
        warnings=warnings,
        origins=tuple(entry.where or escape(entry.name) for entry in kept),
    )
