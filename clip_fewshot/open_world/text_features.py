"""What detectors that read texts are given: the names of the known classes, and words for everything else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.features.texts import class_texts
from clip_fewshot.novelty.negative_labels import mine_negatives
from clip_fewshot.open_world.nouns import load_nouns
from clip_fewshot.runtime import rng
from clip_fewshot.types import FloatArray, LabelArray

NEGATIVE_WORDS = 2000  # of the word list, drawn once: a ViT-B/32 reads them in 16 s on a core, and then never again
NEGATIVES = 1000

Texts = Mapping[str, FloatArray]  # "concepts": (c, d) unit features of class names; "negatives": (m, d) of others


def encode_concepts(
    backbone: Backbone, names: Sequence[str], templates: Sequence[str] = (), needs: Collection[str] = ("concepts",)
) -> Texts:
    """What detectors ask for of these classes. The negatives are the words furthest from all of them.

    Args:
        templates: texts with one "{}", of the classes and, the first of them, of the words; empty: the usual ones.
        needs: as a detector's ``needs_texts``.
    """
    templates = templates or TEMPLATES
    by_name = class_texts(backbone, names, templates)
    concepts = np.stack([by_name[name] for name in names])
    if "negatives" not in needs:
        return {"concepts": concepts}
    order = rng.generator(0, "negative words").permutation(len(load_nouns()))[:NEGATIVE_WORDS]
    drawn = [load_nouns()[int(i)] for i in np.sort(order)]
    words = np.stack([*class_texts(backbone, drawn, templates[:1]).values()])
    return {"concepts": concepts, "negatives": words[mine_negatives(concepts, words, NEGATIVES)]}


def widen_texts(texts: Texts | None, width: int) -> Texts | None:
    """(c, width) texts: zeros where features go on that no text describes, so that cosines keep their order."""
    return texts and {name: np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for name, rows in texts.items()}


def drop_classes(texts: Texts | None, hidden: LabelArray) -> Texts | None:
    """``texts`` as they would be had the hidden classes never been known.

    Their names may now stand among the negatives, as the name of any unknown class may.
    """
    return None if texts is None else {**texts, "concepts": np.delete(texts["concepts"], hidden, axis=0)}
