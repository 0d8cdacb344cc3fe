"""Texts for a picture and pictures for a text; how often each finds the other, with intervals and beside chance."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np
import torch

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.pairs.batch import caption_ids
from clip_fewshot.data.templates import fill_template
from clip_fewshot.evaluation.intervals import accuracy_interval, statistic_interval
from clip_fewshot.features.encode import encode_images, encode_texts
from clip_fewshot.geometry import unit_rows
from clip_fewshot.types import BoolArray, FloatArray, IndexArray

PLACES = (1, 5, 10)


def rank_texts(
    backbone: Backbone, picture: ImageDataset, texts: Sequence[str], top: int = 5, truncate: bool = False
) -> list[dict[str, Any]]:
    """The ``top`` nearest of ``texts`` for one picture, each with its cosine and its probability among all of them.

    One text alone has no probability (None): whatever the picture shows, its share would be 1. Of a model that was
    trained with a sigmoid each text has a ``match`` too, see :meth:`Backbone.match`.
    """
    row = unit_rows(encode_images(backbone, picture).features)
    cosines = unit_rows(encode_texts(backbone, texts, truncate=truncate)) @ row[0]
    probabilities = _softmax(float(backbone.logit_scale.detach().exp()) * cosines)
    fits = backbone.match(torch.from_numpy(cosines))
    return [
        {
            "text": texts[i],
            "cosine": float(cosines[i]),
            "probability": float(probabilities[i]) if len(texts) > 1 else None,
            **({} if fits is None else {"match": float(fits[i])}),
        }
        for i in np.argsort(-cosines, kind="stable")[:top].tolist()
    ]


def rank_pictures(
    backbone: Backbone, text: str, pictures: ImageDataset, top: int = 5, truncate: bool = False
) -> list[dict[str, Any]]:
    """The ``top`` nearest of distinct ``pictures`` for a text, each with its cosine."""
    row = unit_rows(encode_texts(backbone, [text], truncate=truncate))
    cosines = unit_rows(encode_images(backbone, pictures).features) @ row[0]
    best = np.argsort(-cosines, kind="stable")[:top].tolist()
    return [{"image": pictures.names[i], "cosine": float(cosines[i])} for i in best]


def distinct_pictures(data: ImageDataset) -> ImageDataset:
    """Each picture once, however many captions it has."""
    return data.subset(np.unique(data.digests, return_index=True)[1])


def texts_of(data: ImageDataset, templates: Sequence[str]) -> list[str]:
    """The distinct captions of a set; of one with classes, each template about each class."""
    if data.captions is not None:
        return list(dict.fromkeys(data.captions))
    return [fill_template(template, name) for name in data.label_space.names for template in templates]


class RetrievalSet(NamedTuple):
    """What is looked for, each once.

    Attributes:
        pictures: the distinct pictures.
        captions: those that are different inputs to the model.
        belongs: (pictures, captions) which caption was written for which picture.
    """

    pictures: ImageDataset
    captions: list[str]
    belongs: BoolArray


def measure_recall(backbone: Backbone, data: ImageDataset, truncate: bool = False) -> dict[str, dict[str, Any]]:
    """Recall of one model on captioned pictures."""
    among = find_candidates(backbone, data, truncate)
    return recall_of([measure_cosines(backbone, among, truncate)], among.belongs)


def measure_cosines(backbone: Backbone, among: RetrievalSet, truncate: bool = False) -> FloatArray:
    """(pictures, captions) cosines."""
    pictures = unit_rows(encode_images(backbone, among.pictures).features)
    return pictures @ unit_rows(encode_texts(backbone, among.captions, truncate=truncate)).T


def find_candidates(backbone: Backbone, data: ImageDataset, truncate: bool = False) -> RetrievalSet:
    """Captions that are one input to the model count once, and answer every picture they were written for."""
    captions = data.captions or ()
    _, first, picture_of = np.unique(data.digests, return_index=True, return_inverse=True)
    ids = caption_ids(backbone.tokenize(list(captions), truncate)).numpy()
    _, first_text, text_of = np.unique(ids, return_index=True, return_inverse=True)
    belongs = np.zeros((len(first), len(first_text)), np.bool_)
    belongs[picture_of, text_of] = True
    return RetrievalSet(data.subset(first), [captions[i] for i in first_text], belongs)


def recall_of(cosines: Sequence[FloatArray], belongs: BoolArray) -> dict[str, dict[str, Any]]:
    """Recall by direction and k: its mean, its 95 % interval over pictures and seeds, and chance.

    Keys are "image to text, recall@k" and "text to image, recall@k".

    A picture asks once; of the other way, a picture's value is the share of its captions that find it, so that captions
    of one picture are not taken for independent.

    Args:
        cosines: (pictures, captions) by the model of each seed.
    """
    seeds, found = [recall_values(each, belongs) for each in cosines], {}
    for k in PLACES:
        key = f"image to text, recall@{k}"
        hits = accuracy_interval([values[key] > 0 for values in seeds])
        found[key] = hits.to_json() | {"chance": text_chance(belongs, k)}
    for k in PLACES:
        key = f"text to image, recall@{k}"
        shares = [values[key] for values in seeds]
        result = statistic_interval(lambda _, values: float(values.mean()), np.zeros(len(belongs)), shares)
        found[key] = result.to_json() | {"chance": picture_chance(belongs, k)}
    return found


def recall_values(cosines: FloatArray, belongs: BoolArray) -> dict[str, FloatArray]:
    """Name of a figure -> (pictures,) whether each picture finds a caption, or the share of its captions that find it.

    Their means are the figures of :func:`recall_of`.
    """
    forth, back, own = rank_right(cosines, belongs), rank_right(cosines.T, belongs.T), belongs.sum(axis=1)
    texts = {f"image to text, recall@{k}": (forth < k).astype(np.float64) for k in PLACES}
    return texts | {f"text to image, recall@{k}": belongs @ (back < k).astype(np.float64) / own for k in PLACES}


def rank_right(cosines: FloatArray, right: BoolArray) -> IndexArray:
    """(queries, candidates) -> (queries,) how many wrong candidates are at least as near as the nearest right one."""
    near = np.where(np.isnan(cosines), -np.inf, cosines)
    best = np.where(right, near, -np.inf).max(axis=1, keepdims=True)
    return np.asarray(((near >= best) & ~right).sum(axis=1))


def text_chance(belongs: BoolArray, k: int) -> float:
    """Expected recall@k of pictures that order the captions at random."""
    m = belongs.shape[1]
    return float(np.mean([1 - comb(m - own, min(k, m)) / comb(m, min(k, m)) for own in belongs.sum(axis=1).tolist()]))


def picture_chance(belongs: BoolArray, k: int) -> float:
    """The same of captions that order the pictures at random."""
    by_text = np.array([text_chance(column[None], k) for column in belongs.T])
    return float(((belongs @ by_text) / belongs.sum(axis=1)).mean())


def _softmax(logits: FloatArray) -> FloatArray:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
