"""The classifier that reads the names of its classes, through every door: fit, save, the study, a class more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.config import FewShotConfig
from clip_fewshot.data.read import read_dataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.pipeline import run_few_shot
from clip_fewshot.probes.text_prior import TextPriorProbe


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load_backbone("mini", device="cpu")


@pytest.fixture(scope="module")
def one_shot() -> OpenWorldSplit:
    return split_open_world(read_dataset("digits"), shots=1, seed=0)


def test_at_one_shot_it_is_better_than_names_and_pictures_alone(mini: Backbone, one_shot: OpenWorldSplit) -> None:
    test = one_shot.test.open("test")
    plain = FewShotClassifier(mini, "linear-probe").fit(one_shot.support).score(test)
    both = FewShotClassifier(mini, "text-prior").fit(one_shot.support)
    assert isinstance(both.model_.probe, TextPriorProbe)
    assert both.model_.probe.belief_ > 0.5
    assert both.score(test) > plain + 0.03
    assert both.score(test) >= 0.93  # zero-shot: .93


def test_it_is_saved_with_the_texts_in_its_weights(mini: Backbone, one_shot: OpenWorldSplit, tmp_path: Path) -> None:
    model = FewShotClassifier(mini, "text-prior").fit(one_shot.support)
    model.save(tmp_path / "m")
    read = FewShotClassifier.load(tmp_path / "m", mini)
    assert np.array_equal(read.predict_proba(one_shot.pool), model.predict_proba(one_shot.pool))


def test_other_texts_are_another_prior(mini: Backbone, one_shot: OpenWorldSplit) -> None:
    models = [
        FewShotClassifier(mini, "text-prior", templates=templates).fit(one_shot.support)
        for templates in ((), ("a photo of the number {}",))
    ]
    assert not np.allclose(*(model.predict_proba(one_shot.pool) for model in models))


@pytest.mark.parametrize("approach", ["text-prior", "tip-adapter", "proker", "cross-modal"])
def test_a_class_that_is_named_later_brings_its_text(mini: Backbone, approach: str) -> None:
    split = split_open_world(read_dataset("digits"), shots=4, unseen=["seven"], seed=0)
    world = OpenWorldClassifier(FewShotClassifier(mini, approach), detector="knn", alpha=0.2).fit(split.support)
    before = world.model.predict_proba(split.pool)
    novel = split.novel.open("test")
    world.name(novel.subset(np.arange(3)), "seven")
    probe = world.model.model_.probe
    assert probe is not None
    assert len(probe.classes_) == len(split.seen.names) + 1
    assert np.mean(world.model.predict(novel.subset(np.arange(3, 60))) == "seven") > 0.9
    world.undo()
    assert np.array_equal(world.model.predict_proba(split.pool), before)


def test_the_main_job_has_a_row_for_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "shots": 2,
        "unseen": "0",
        "trials": 3,
        "seeds": 1,
        "epochs": 1,
        "jobs": 1,
        "device": "cpu",
    }
    approaches = ("text-prior", "mlp")
    results = run_few_shot(FewShotConfig.of(**options, approaches=approaches, out=str(tmp_path / "run")))
    assert results["approaches"]["text-prior"]["test"]["mean"] > 0.9
