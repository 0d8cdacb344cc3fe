"""How often a picture finds its caption, and a caption its picture, with intervals and beside chance."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any, NamedTuple

import numpy as np

import clip_fewshot as cf

PLACES = (1, 5, 10)


class Candidates(NamedTuple):
    """What is looked for, each once.

    Attributes:
        pictures: the distinct pictures.
        captions: those that the model can tell apart.
        belongs: (pictures, captions) which caption was written for which picture.
    """

    pictures: cf.ImageDataset
    captions: list[str]
    belongs: cf.BoolArray


def recalls(backbone: cf.Backbone, data: cf.ImageDataset, truncate: bool = False) -> dict[str, dict[str, Any]]:
    """:func:`recalled` of one model on captioned pictures."""
    among = candidates(backbone, data, truncate)
    pictures = unit(cf.encode_images(backbone, among.pictures).features)
    texts = unit(cf.encode_texts(backbone, among.captions, truncate=truncate))
    return recalled([pictures @ texts.T], among.belongs)


def candidates(backbone: cf.Backbone, data: cf.ImageDataset, truncate: bool = False) -> Candidates:
    """Captions that are one input to the model count once, and answer every picture they were written for."""
    captions = data.captions or ()
    _, first, picture_of = np.unique(data.digests, return_index=True, return_inverse=True)
    ids = cf.caption_ids(backbone.tokenize(list(captions), truncate)).numpy()
    _, first_text, text_of = np.unique(ids, return_index=True, return_inverse=True)
    belongs = np.zeros((len(first), len(first_text)), np.bool_)
    belongs[picture_of, text_of] = True
    return Candidates(data.subset(first), [captions[i] for i in first_text], belongs)


def recalled(cosines: Sequence[cf.FloatArray], belongs: cf.BoolArray) -> dict[str, dict[str, Any]]:
    """ "image to text, recall@k" and "text to image, recall@k" -> mean, 95 % interval over pictures and seeds, chance.

    A picture asks once; of the other way, a picture's value is the share of its captions that find it, so that captions
    of one picture are not taken for independent.

    Args:
        cosines: (pictures, captions) by the model of each seed.
    """
    found = {}
    for k in PLACES:
        hits = [ranks(each, belongs) < k for each in cosines]
        found[f"image to text, recall@{k}"] = cf.interval(hits).to_json() | {"chance": text_chance(belongs, k)}
    for k in PLACES:
        hits = [ranks(each.T, belongs.T) < k for each in cosines]
        shares = [belongs @ hit.astype(np.float64) / belongs.sum(axis=1) for hit in hits]
        result = cf.statistic_interval(lambda _, values: float(values.mean()), np.zeros(len(belongs)), shares)
        found[f"text to image, recall@{k}"] = result.to_json() | {"chance": picture_chance(belongs, k)}
    return found


def ranks(cosines: cf.FloatArray, right: cf.BoolArray) -> cf.IndexArray:
    """(queries, candidates) -> (queries,) how many wrong candidates are at least as near as the nearest right one."""
    near = np.where(np.isnan(cosines), -np.inf, cosines)
    best = np.where(right, near, -np.inf).max(axis=1, keepdims=True)
    return np.asarray(((near >= best) & ~right).sum(axis=1))


def text_chance(belongs: cf.BoolArray, k: int) -> float:
    """Expected recall@k of pictures that order the captions at random."""
    m = belongs.shape[1]
    return float(np.mean([1 - comb(m - own, min(k, m)) / comb(m, min(k, m)) for own in belongs.sum(axis=1).tolist()]))


def picture_chance(belongs: cf.BoolArray, k: int) -> float:
    """The same of captions that order the pictures at random."""
    by_text = np.array([text_chance(column[None], k) for column in belongs.T])
    return float(((belongs @ by_text) / belongs.sum(axis=1)).mean())


def unit(rows: cf.FloatArray) -> cf.FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12))
