"""Weights between the frozen and the tuned ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.sampling import OpenWorldSplit
from clip_fewshot.few_shot.approach import OWN, TUNED_SHARE, Point
from clip_fewshot.few_shot.model import prepare_support
from clip_fewshot.few_shot.trainer import SupportData, TrainSettings, tune
from clip_fewshot.tuning.base import blend_weights

QUICK = TrainSettings(epochs=2, min_steps=8)


@pytest.fixture(scope="module")
def data(tiny: Backbone, split: OpenWorldSplit) -> SupportData:
    return prepare_support(tiny, split.support, [1], views=1, seed=0, reads_texts=True)


def weights(tiny: Backbone, data: SupportData, name: str, share: float | None) -> dict[str, Tensor]:
    options = OWN[name].point.options
    kept = {key: value for key, value in options.items() if key != TUNED_SHARE}
    point = Point(name, kept if share is None else {**kept, TUNED_SHARE: share})
    return tune(tiny, OWN[name], point, data, QUICK, seed=0).suffix.state_dict()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.7, 1.0])
def test_each_weight_is_between_the_two(share: float) -> None:
    torch.manual_seed(0)
    start, tuned = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    blended = copy.deepcopy(tuned)
    blend_weights(start, blended, share)
    for name, value in blended.state_dict().items():
        a, b = start.state_dict()[name].double().numpy(), tuned.state_dict()[name].double().numpy()
        assert np.allclose(value.double().numpy(), (1 - share) * a + share * b, atol=1e-7)


@pytest.mark.parametrize("name", ["wise-ft", "mlp", "lora", "contrastive"])
def test_the_ends_are_the_frozen_and_the_tuned_layers_to_the_bit(name: str, tiny: Backbone, data: SupportData) -> None:
    frozen, tuned = tiny.visual.suffix(1).state_dict(), weights(tiny, data, name, None)
    at_0, between, at_1 = (weights(tiny, data, name, share) for share in (0.0, 0.5, 1.0))
    assert all(torch.equal(value, frozen[key]) for key, value in at_0.items())
    assert all(torch.equal(value, tuned[key]) for key, value in at_1.items())
    assert not all(torch.equal(value, frozen[key]) for key, value in tuned.items())
    assert all(torch.allclose(value, (frozen[key] + tuned[key]) / 2, atol=1e-6) for key, value in between.items())
