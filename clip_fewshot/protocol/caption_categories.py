"""A category before each caption, "dog: it runs in the snow", and what it does to recall.

It is the table's own, or predicted from the words of the caption. Predicted from the picture, which suggests itself,
each caption would carry what was seen in its own picture: asked for among others, it would give the answer away, and
recall would rise whatever the words say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.split import group_captions
from clip_fewshot.errors import DataError, UsageError
from clip_fewshot.evaluation.intervals import accuracy_interval, statistic_difference
from clip_fewshot.features.encode import encode_texts
from clip_fewshot.probes.logistic import LinearProbe
from clip_fewshot.report import tables
from clip_fewshot.runtime.rng import derive_seed
from clip_fewshot.types import FloatArray, IndexArray, LabelArray

CATEGORY_FOLDS = 5


class Headed(NamedTuple):
    """Both sides with a category before each caption.

    Attributes:
        kept, held: training and test pairs.
        right: how often a prediction is the column's category, out of fold on the training side; None: none was made.
    """

    kept: ImageDataset
    held: ImageDataset
    right: dict[str, Any] | None


def head_captions(captions: Sequence[str], categories: Sequence[str]) -> tuple[str, ...]:
    """Captions with the category before each: "dog: it runs in the snow"."""
    return tuple(f"{category}: {caption}" for category, caption in zip(categories, captions, strict=True))


def add_categories(
    kept: ImageDataset, held: ImageDataset, category: str, model: Backbone, *, seed: int, truncate: bool
) -> Headed:
    """The category of each row before its caption.

    Args:
        kept, held: captioned training and test pairs with a class per row.
        category: "column": the class. "predicted": what logistic regression reads off the features of the caption. A
            training caption is read by a model of the other folds of the training side, and all captions of a picture
            are in one fold; a test caption by a model of the whole training side. The classes of the test side are not
            looked at. "none": nothing is added.
        model: gives the features.
        seed: of the folds.
        truncate: cut captions that are too long.

    Raises:
        UsageError: pictures without captions. DataError: captions without classes, or with one class alone.
    """
    if category == "none":
        return Headed(kept, held, None)
    if kept.captions is None:
        fix = "leave it out"
        raise UsageError(expected="captioned pictures", got="classes alone", fix=fix, where="`category`")
    if kept.labels is None or len(np.unique(kept.labels)) < 2:
        fix = "name the column label, class or category"
        raise DataError(expected="pairs of 2 categories or more", got="fewer", fix=fix, where=kept.name)
    if category == "column":
        return Headed(_headed(kept, kept.labels), _headed(held, held.required_labels()), None)
    seen, new = (encode_texts(model, part.captions or (), truncate) for part in (kept, held))
    guessed = _predict_out_of_fold(seen, kept, seed)
    right = accuracy_interval([guessed == kept.labels]).to_json()
    return Headed(_headed(kept, guessed), _headed(held, _predict(seen, kept.labels, new, seed)), right)


def _headed(data: ImageDataset, labels: LabelArray) -> ImageDataset:
    """``data`` with these classes in its captions, and none beside them."""
    captions = head_captions(data.captions or (), data.label_space.decode(labels))
    return replace(data, captions=captions, labels=None)


def _predict_out_of_fold(features: FloatArray, data: ImageDataset, seed: int) -> LabelArray:
    labels, fold_of = data.required_labels(), _deal_folds(data, seed)
    guessed = np.empty_like(labels)
    for fold in np.unique(fold_of):
        apart = fold_of == fold
        guessed[apart] = _predict(features[~apart], labels[~apart], features[apart], seed)
    return guessed


def _deal_folds(data: ImageDataset, seed: int) -> IndexArray:
    """(rows,) a fold each. The pictures of a class are dealt by their hashes, so that each class is spread evenly."""
    pictures = group_captions(data)
    first = pictures.rows[pictures.starts[:-1]]
    lots = np.array([derive_seed(seed, "category folds", data.digests[row]) for row in first])
    fold_of = np.empty(pictures.n, np.int64)
    fold_of[np.lexsort((lots, data.required_labels()[first]))] = np.arange(pictures.n) % CATEGORY_FOLDS
    return fold_of[pictures.of_row]


def _predict(features: FloatArray, labels: LabelArray, asked: FloatArray, seed: int) -> LabelArray:
    """Classes of the ``asked``; where the others are of one class alone, that one."""
    if len(np.unique(labels)) == 1:
        return np.full(len(asked), labels[0])
    return np.asarray(LinearProbe(seed=seed).fit(features, labels).predict(asked))


def compare_recall(with_category: dict[str, FloatArray], without: dict[str, FloatArray]) -> dict[str, dict[str, Any]]:
    """Recall with a category minus recall without, paired over the test pictures: mean, ci95, p_value of each figure.

    Args:
        with_category, without: (pictures,) of each figure, see :func:`~clip_fewshot.protocol.retrieval.recall_values`.
    """
    return {
        key: statistic_difference(lambda _, v: float(v.mean()), np.zeros(len(a)), [a], [without[key]]).to_json()
        for key, a in with_category.items()
    }


def describe_category(found: dict[str, Any], after: dict[str, dict[str, Any]]) -> str:
    """A line per figure: after training with the category, after training without, and the difference."""
    rows = [
        [key, *(tables.estimate_of(row) for row in (after[key], found["without"]["after"][key], difference))]
        for key, difference in found["difference"].items()
    ]
    head = [f"category before the caption: {found['kind']}", "with", "without", "difference"]
    right = found["right"]
    told = f"\npredictions on the training side, out of fold: right {tables.estimate_of(right)}" if right else ""
    return tables.format_plain([head, *rows]) + told
