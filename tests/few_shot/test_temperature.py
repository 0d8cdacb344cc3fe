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
from clip_fewshot.evaluation.calibration import match_temperature
from clip_fewshot.evaluation.reliability import measure_losses
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.heads import LinearHead
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


def loud(times: float) -> FloatArray:
    """Logits that are right, and the surer the larger."""
    return times * (np.random.default_rng(0).normal(size=(40, 7)) + 2 * np.eye(7)[np.arange(40) % 7])


def test_the_entropy_is_that_of_the_reference() -> None:
    logits, reference = loud(2.0), softmax(loud(0.7), axis=1)
    found = match_temperature(logits, reference, 8.0)
    slow = [entropy(p, axis=1).mean() for p in (softmax(logits / found, axis=1), reference)]
    assert slow[0] == pytest.approx(slow[1], abs=1e-8)
    assert found == pytest.approx(2.0 / 0.7)  # the same logits but for their scale
    assert match_temperature(logits, reference, 1.5) == 1.5


def test_what_is_less_sure_than_the_reference_is_left_as_it_is() -> None:
    assert match_temperature(loud(0.1), softmax(loud(1.0), axis=1), 8.0) == 1.0


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
