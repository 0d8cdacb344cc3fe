"""Features that lie in a narrow cone, as an untrained ResNet's do: tuning them loses nothing, or a warning says so."""

from __future__ import annotations

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone, build_backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.few_shot import objectives
from clip_fewshot.few_shot.approach import APPROACHES
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.heads import CentredHead
from tests.contrastive.test_finetuning import RESNET


@pytest.fixture(scope="module")
def resnet() -> Backbone:
    return build_backbone(RESNET)


def support_accuracy(model: FewShotClassifier, split: OpenWorldSplit) -> float:
    names = split.support.label_space.decode(split.support.required_labels())
    return float(np.mean(model.predict(split.support) == np.array(names)))


@pytest.mark.parametrize("approach", APPROACHES)
def test_a_resnet_ends_no_lower_than_it_begins_at_the_rates_of_the_centre(
    approach: str, resnet: Backbone, split: OpenWorldSplit
) -> None:
    start = ("linear-probe", None) if "contrastive" in approach else (approach, 0)
    frozen = support_accuracy(FewShotClassifier(resnet, start[0], start[1]).fit(split.support), split)
    for unfreeze in (1, 2):
        tuned = FewShotClassifier(resnet, approach, unfreeze).fit(split.support)  # a warning is an error here
        assert support_accuracy(tuned, split) >= frozen > 0.5


def test_with_a_fixed_mean_it_falls_and_a_warning_says_so(
    resnet: Backbone, split: OpenWorldSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "NARROW", 0.0)
    with pytest.warns(RuntimeWarning, match=r"^mlp knows 0\.\d+ of its support set .* 1\.000 with frozen ones: lower"):
        model = FewShotClassifier(resnet, "mlp", unfreeze=1).fit(split.support)
    assert support_accuracy(model, split) < 0.8


def test_wider_features_keep_the_mean_that_they_began_with(split: OpenWorldSplit) -> None:
    model = FewShotClassifier(load_backbone("mini"), "mlp", unfreeze=1, epochs=2).fit(split.support)
    head = model.model_.head
    assert isinstance(head, CentredHead)
    assert not head.follows
    features = model.features(split.support)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert not np.allclose(unit.mean(axis=0), head.mean.numpy(), atol=1e-4)  # they moved, and it did not
