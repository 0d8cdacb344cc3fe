"""Open what a command names, and say on standard error what was passed over on the way."""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_fewshot.config import BUILTIN_DATA, TextOptions
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.runtime.outputs import FolderKind, check_file, check_folder

if TYPE_CHECKING:
    from clip_fewshot.backbones.backbone import Backbone
    from clip_fewshot.commands.cli.shared_options import PicturesOptions
    from clip_fewshot.data.dataset import ImageDataset
    from clip_fewshot.open_world.classifier import OpenWorldClassifier

BARE = "few-shot classifier"  # the kind of a saved model without a detector
NAMED, SHOWN_ALIKE = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[\d/\\]\S*|\S+\.\w+"), 5  # names and numbers in a warning
DONE, SOME_SKIPPED, NONE_TO_BE_HAD = 0, 3, 4


def warn(sentences: Iterable[str]) -> None:
    """Each on a line of standard error; many that differ in names and numbers alone are one line with their count."""
    from clip_fewshot.data.names import escape

    alike = defaultdict[str, list[str]](list)
    for sentence in sentences:
        alike[NAMED.sub("", sentence)].append(sentence)
    for group in alike.values():
        shown = group if len(group) <= SHOWN_ALIKE else [f"{group[0]} (and {len(group) - 1:,} more like it)"]
        for sentence in shown:
            print(f"warning: {escape(sentence)}", file=sys.stderr)


def open_data(source: str, **reading: Any) -> ImageDataset:
    """The pictures of ``source``; warnings, and unreadable pictures by reason, go to standard error.

    Args:
        reading: of ``read_dataset``.
    """
    from clip_fewshot.data.collect import list_warnings
    from clip_fewshot.data.read import read_dataset

    pictures = read_dataset(source, **reading)
    warn(list_warnings(pictures))
    return pictures


def open_measured(options: PicturesOptions) -> ImageDataset:
    """DATA of a command that learns nothing from it; with --test the pictures of that side alone."""
    import numpy as np

    pictures = open_data(options.data, **options.reading())
    if options.test is None:
        return pictures
    return pictures.subset(np.flatnonzero([part == "test" for part in pictures.partition]))


def open_templates(options: TextOptions, usual: Sequence[str]) -> tuple[str, ...]:
    """The templates that were asked for, or the ``usual`` ones."""
    from clip_fewshot.data.own_templates import choose_templates

    return choose_templates(options.templates, options.template) or tuple(usual)


def open_pictures(places: Sequence[Path]) -> ImageDataset:
    """The pictures, or those of a data set in the package; each that cannot be read is listed on standard error."""
    from clip_fewshot.data.collect import join_images, read_images
    from clip_fewshot.data.names import escape

    names = {str(place) for place in places}
    if names & set(BUILTIN_DATA):
        return join_images([open_data(name) for name in sorted(names)])
    pictures = read_images(places)
    for path, reason, detail in pictures.skipped:
        print(f"skipped {escape(path)}: [{reason}] {escape(detail)}", file=sys.stderr)
    warn(pictures.warnings)
    return pictures


def open_picture(path: Path) -> ImageDataset:
    """One picture, without a class.

    Raises:
        UsageError: a folder, whose name says nothing about a picture.
    """
    from clip_fewshot.data.collect import read_images

    if os.path.isdir(path):
        fix = "name one picture, or take predict for a folder"
        raise UsageError(expected="a picture", got="a folder", fix=fix, where=f"--image {path}")
    return read_images([path])


def exit_code(pictures: ImageDataset) -> int:
    """Of a command that has done what it could."""
    return SOME_SKIPPED if pictures.skipped else DONE


def exit_code_of(asked: int, lacking: int) -> int:
    """Of a command over several models, of which some could not be had."""
    return (NONE_TO_BE_HAD if lacking == asked else SOME_SKIPPED) if lacking else DONE


def choose_folder(options: Any, usual: str, kind: FolderKind) -> Path:
    """The folder of ``--out``, or the usual one, if its command may write there; to be asked before any work."""
    return check_folder(Path(options.out or usual), kind, options.overwrite, options)


def choose_file(options: Any, path: Path) -> Path:
    """The same of a page or a drawing."""
    return check_file(path, options.overwrite, options)


def choose_table(options: Any, usual: str) -> Path:
    """The same of a table of features; Spark writes a folder, and a new one each time."""
    from clip_fewshot.features.table import is_feature_table

    if options.spark:
        return choose_folder(options, usual, FolderKind("table by Spark"))
    return check_file(Path(options.out or usual), options.overwrite, options, is_feature_table)


def open_model(name: str, tuned: Path | None, device: str) -> Backbone:
    """The backbone of that name, or what a fine-tuning made of it."""
    from clip_fewshot.backbones.clip import load_backbone
    from clip_fewshot.contrastive.tuned_files import load_tuned

    backbone = load_backbone(name, device=device)
    return backbone if tuned is None else load_tuned(tuned, backbone)


def open_trusted(trust: Sequence[str]) -> dict[str, Any]:
    """The objects by name of NAME=python:MODULE:OBJECT as typed, for files that name code of the user's own."""
    from clip_fewshot.runtime.parts import PYTHON_PREFIX, import_part

    pairs = [one.partition("=") for one in trust]
    for one, (name, _, part) in zip(trust, pairs, strict=True):
        if not name or not part.startswith(PYTHON_PREFIX):
            fix = "name what the files say, and where it is"
            raise UsageError(expected="NAME=python:MODULE:OBJECT", got=one, fix=fix, where="--trust")
    return {name: import_part(part) for name, _, part in pairs}


def open_saved(folder: Path, model: str | None, device: str, trust: Sequence[str] = ()) -> OpenWorldClassifier:
    """The model in ``folder``. A bare classifier comes back as one that never says unknown.

    Args:
        model: the backbone it was trained on, where its saved name no longer leads to it.
        trust: as of :func:`open_trusted`.
    """
    import numpy as np

    from clip_fewshot.backbones.clip import load_backbone
    from clip_fewshot.few_shot.classifier import FewShotClassifier
    from clip_fewshot.open_world.classifier import OpenWorldClassifier
    from clip_fewshot.runtime.artifacts import artifact_kind

    kind, trusted = artifact_kind(folder), open_trusted(trust)
    backbone = None if model is None else load_backbone(model, device=device)
    try:
        if kind == BARE:
            classifier = FewShotClassifier.load(folder, backbone, trusted)
            no_reference = np.empty((0, 0)), np.empty(0, dtype=np.int64)  # for groups among the unknown: there are none
            return OpenWorldClassifier.from_fit(classifier, None, None, no_reference)
        return OpenWorldClassifier.load(folder, backbone, trusted)
    except UsageError as error:
        if backbone is not None:
            raise
        expected, fix = "a backbone that can be loaded by its saved name", "name the backbone with --model"
        raise UsageError(expected=expected, got=error.got, fix=fix, where=str(folder)) from error


def warn_if_blind(world: OpenWorldClassifier) -> None:
    """Say so where the detector was calibrated on too few pictures to call any unknown, or any at the usual rate."""
    from clip_fewshot.conformal.p_values import explain_alpha

    if world.rejector_ is not None:
        refusal = world.rejector_.refusal(world.alpha_)
        warn([f"no picture will be called unknown: {refusal}"] if refusal else [])
        warn(explain_alpha(world.alpha, world.rejector_.n_calibration))


def read_words(path: Path | None) -> list[str] | None:
    """The names in a text file; None for the shipped list."""
    from clip_fewshot.data.text_files import read_text

    if path is None:
        return None
    words = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not words:
        raise DataError(expected="a name a line", got="an empty file", fix="check --words", where=str(path))
    return words
