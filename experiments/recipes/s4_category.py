"""S4's plan that was never carried out: the predicted category inside the caption, before any training.

`clip-fewshot finetune --category predicted` trains with it.

Predicted from what? From the picture is what suggests itself, and then each caption carries what was seen in its own
picture: asked for among others, it gives the answer away, and recall rises whatever the words say. What may be used is
the caption itself, or a category that was known before anyone looked for anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.evaluation.intervals import accuracy_interval
from clip_fewshot.features.encode import encode_images, encode_texts
from clip_fewshot.geometry import unit_rows
from clip_fewshot.protocol.caption_categories import head_captions
from clip_fewshot.protocol.retrieval import measure_recall
from clip_fewshot.report import tables

SHOWN = ("image to text, recall@5", "text to image, recall@5")


def compared(model: Backbone, held: ImageDataset) -> dict[str, Any] | None:
    """Recall with each kind of category in front of the captions; None where the pictures have none."""
    if held.labels is None:
        return None
    names, captions = held.label_space.names, held.captions or ()
    classes = unit_rows(encode_texts(model, [TEMPLATES[0].format(name) for name in names]))
    texts = unit_rows(encode_texts(model, captions, truncate=True))
    images = unit_rows(encode_images(model, held).features)
    kinds = {
        "none": None,
        "predicted from the caption": (texts @ classes.T).argmax(axis=1),
        "predicted from its picture (leaks)": (images @ classes.T).argmax(axis=1),
        "given": held.required_labels(),
    }
    rows = {}
    for kind, labels in kinds.items():
        written = captions if labels is None else head_captions(captions, [names[int(i)] for i in labels])
        right = None if labels is None else accuracy_interval([np.asarray(labels == held.required_labels())]).to_json()
        rows[kind] = {"right": right, **measure_recall(model, replace(held, captions=tuple(written)), truncate=True)}
    return {"classes": len(names), "rows": rows}


def table(found: dict[str, Any] | None) -> str:
    """A line per kind of category."""
    if found is None:
        return "category in the caption: the pictures have none (a column label or class in the table)"
    head = [f"category in the caption, one of {found['classes']}", "right", *SHOWN]
    rows = [
        [
            kind,
            "" if row["right"] is None else tables.format_fraction(row["right"]["mean"]),
            *(tables.estimate(row[key]["mean"], row[key]["ci95"]) for key in SHOWN),
        ]
        for kind, row in found["rows"].items()
    ]
    return tables.format_plain([head, *rows])
