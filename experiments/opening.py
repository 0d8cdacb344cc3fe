"""Open what a command names, and say on standard error what was passed over on the way."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import clip_fewshot as cf

BARE = "few-shot classifier"  # the kind of a saved model without a detector


def warn(sentences: Iterable[str]) -> None:
    """Each on a line of standard error."""
    for sentence in sentences:
        print(f"warning: {cf.shown(sentence)}", file=sys.stderr)


def dataset(source: str) -> cf.ImageDataset:
    """The pictures of ``source``; warnings, and unreadable pictures by reason, are said."""
    pictures = cf.read_dataset(source)
    warn(pictures.warnings)
    reasons = Counter(skipped.reason for skipped in pictures.skipped)
    warn(f"{n} unreadable pictures: {reason}" for reason, n in sorted(reasons.items()))
    return pictures


def model(name: str, tuned: str | Path | None, device: str) -> cf.Backbone:
    """The backbone of that name, or what a fine-tuning made of it."""
    backbone = cf.load_backbone(name, device=device)
    return backbone if tuned is None else cf.load_tuned(tuned, backbone)


def saved_model(folder: Path, model: str | None, device: str) -> cf.OpenWorldClassifier:
    """The model in ``folder``. A bare classifier comes back as one that never says unknown.

    Args:
        model: the backbone it was trained on, where its saved name no longer leads to it.
    """
    import numpy as np

    kind = cf.artifact_kind(folder)
    backbone = None if model is None else cf.load_backbone(model, device=device)
    try:
        if kind == BARE:
            classifier = cf.FewShotClassifier.load(folder, backbone)
            no_reference = np.empty((0, 0)), np.empty(0, dtype=np.int64)  # for groups among the unknown: there are none
            return cf.OpenWorldClassifier.from_fit(classifier, None, 0.05, no_reference)
        return cf.OpenWorldClassifier.load(folder, backbone)
    except cf.UsageError as error:
        if backbone is not None:
            raise
        fix = "name the backbone with --model"
        raise cf.UsageError(
            expected="a backbone that can be loaded by its saved name", got=error.got, fix=fix, where=str(folder)
        ) from error
