"""Probabilities of ours are what cleanlab finds wrong labels with."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import cross_val_predict

from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.few_shot.classifier import FewShotClassifier


def test_wrong_labels_are_found(digits: ImageDataset) -> None:
    filters = pytest.importorskip("cleanlab.filter", exc_type=ImportError)
    rows = [i for label in range(3) for i in np.flatnonzero(digits.required_labels() == label)[:20].tolist()]
    pictures = digits.subset(np.array(rows))
    names = pictures.label_space.decode(pictures.required_labels())
    wrong = {3: "two", 25: "zero", 47: "one"}
    said = [wrong.get(i, name) for i, name in enumerate(names)]
    model = FewShotClassifier(load_backbone("mini", device="cpu"), approach="linear-probe")
    probabilities = cross_val_predict(model, list(pictures.images), said, cv=5, method="predict_proba")
    order = sorted(set(said))
    doubtful = filters.find_label_issues(
        [order.index(name) for name in said], probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert {*doubtful[:3].tolist()} == {*wrong}
