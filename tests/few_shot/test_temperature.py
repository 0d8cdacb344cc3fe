"""Trained heads whose probabilities are right: a slow twin of the rule, its laws, and pictures it has not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, draw_support, split_open_world
from clip_fewshot.evaluation.reliability import measure_losses
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.model import prepare_support
from clip_fewshot.few_shot.temperature import match_temperature
from clip_fewshot.few_shot.trainer import SupportData
from clip_fewshot.heads import LinearHead
from clip_fewshot.probes import LinearProbe
from clip_fewshot.types import FloatArray


class Quiet(LinearHead):
    """A head of small logits, as those of cosines are."""

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        return 0.05 * super().forward(features, labels)


QUIET = cf.Approach("quiet", head=Quiet, loss="cross-entropy", centre={"unfreeze": 0, "head_lr": 0.01})


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return cf.load_backbone("mini", device="cpu")


@pytest.fixture(scope="module")
def all_digits() -> OpenWorldSplit:
    return split_open_world(cf.read_dataset("digits-wild"), shots=4, seed=0)


@pytest.fixture(scope="module")
def prepared(tiny: Backbone, split: OpenWorldSplit) -> SupportData:
    return prepare_support(tiny, split.support, [0], 1, 0)


def loud(data: SupportData, times: float) -> FloatArray:
    """Logits that are surer of the labels than pictures make one."""
    return times * (np.random.default_rng(0).normal(size=(len(data.labels), 7)) + 4 * np.eye(7)[data.labels])


def test_the_entropy_is_that_of_the_probe(prepared: SupportData) -> None:
    logits, features = loud(prepared, 2.0), prepared.images.frozen_features().numpy()
    found = match_temperature(logits, prepared, 1.0)
    reference = LinearProbe(C=1.0).fit(features, prepared.labels).predict_proba(features)
    slow = [entropy(softmax(logits / found, axis=1), axis=1).mean(), entropy(reference, axis=1).mean()]
    assert found == 8.0 or slow[0] == pytest.approx(slow[1], abs=1e-8)
    assert found > 1


def test_a_head_of_larger_logits_says_the_same(prepared: SupportData) -> None:
    once, twice = (match_temperature(loud(prepared, times), prepared, 100.0) for times in (1.5, 3.0))
    assert twice == pytest.approx(2 * once)


def test_what_is_less_sure_than_the_probe_is_left_to_pictures_it_has_not_seen(prepared: SupportData) -> None:
    assert match_temperature(loud(prepared, 1e-3), prepared, 1e4) == 1.0


@pytest.mark.parametrize("approach", ["mlp", "mlp-arcface"])
def test_sealed_pictures_are_likelier(approach: str, mini: Backbone, all_digits: OpenWorldSplit) -> None:
    test = all_digits.test.open("test").subset(np.arange(300))
    model = FewShotClassifier(mini, approach).fit(all_digits.support)
    logits = model.model_.logits(model.features(test))
    before, after = softmax(logits, axis=1), model.predict_proba(test)
    assert np.array_equal(before.argmax(axis=1), after.argmax(axis=1))
    assert after == pytest.approx(softmax(logits / model.model_.temperature, axis=1))
    if approach == "mlp-arcface":
        assert loss_of(test, after) < loss_of(test, before) - 0.05
        assert model.evaluate(test).ece.mean < 0.15
    assert model.evaluate(test).nll.mean == pytest.approx(loss_of(test, after))


def loss_of(test: ImageDataset, probabilities: FloatArray) -> float:
    return float(measure_losses(test.required_labels(), probabilities).mean())


def test_a_foreign_head_of_small_logits_is_made_surer(mini: Backbone, all_digits: OpenWorldSplit) -> None:
    test = all_digits.test.open("test").subset(np.arange(300))
    model = FewShotClassifier(mini, QUIET).fit(all_digits.support)
    assert model.model_.temperature < 0.7
    before = softmax(model.model_.logits(model.features(test)), axis=1)
    assert loss_of(test, model.predict_proba(test)) < loss_of(test, before) - 0.1


def test_at_one_shot_the_texts_say_how_sure(mini: Backbone, all_digits: OpenWorldSplit) -> None:
    support = draw_support(all_digits.pool, 1, 0)
    fitted: Any = FewShotClassifier(mini, "mlp-arcface").fit(support)
    assert 1.2 < fitted.model_.temperature <= 2.0
    data = prepare_support(mini, support, [0], 1, 0)
    logits = fitted.model_.logits(fitted.features(support))
    assert match_temperature(logits, data, None) == 1.0  # no texts, so that nothing says it
