"""Sets of classes of a model: what they are calibrated on, how often they hold the class, and what they survive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.conformal.prediction_sets import class_p_values, measure_losses, prediction_sets
from clip_fewshot.data.collect import join_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.probes import LinearProbe

ALPHA = 0.1


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load_backbone("mini", device="cpu")


@pytest.fixture(scope="module")
def four(digits: ImageDataset) -> OpenWorldSplit:
    return split_open_world(digits, shots=4, unseen=["nine"], seed=0)


def build(backbone: Backbone, support: ImageDataset, approach: str = "linear-probe") -> OpenWorldClassifier:
    return OpenWorldClassifier(FewShotClassifier(backbone, approach), detector="knn", alpha=ALPHA).fit(support)


@pytest.fixture(scope="module")
def world(mini: Backbone, four: OpenWorldSplit) -> OpenWorldClassifier:
    return build(mini, four.support)


@pytest.fixture(scope="module")
def asked(four: OpenWorldSplit) -> ImageDataset:
    """Pictures of known classes, and of one that is not."""
    test, novel = four.test.open("prediction sets"), four.novel.open("prediction sets")
    return join_images([test.subset(np.arange(60)), novel.subset(np.arange(20))])


def test_each_picture_is_judged_by_a_probe_of_the_other_folds(world: OpenWorldClassifier) -> None:
    """Nine classes of four shots are dealt to five folds in the order of their classes."""
    features, labels = world.reference_
    losses, fold = np.empty(len(labels)), np.empty(len(labels))
    fold[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % 5
    for k in range(5):
        probe = LinearProbe(C=world.model.model_.probe.C_).fit(features[fold != k], labels[fold != k])
        p = probe.predict_proba(features[fold == k])
        losses[fold == k] = -np.log(p[np.arange(len(p)), labels[fold == k]])
    assert world.known_.losses == pytest.approx(losses, rel=1e-3, abs=1e-6)


def test_sets_are_the_classes_above_the_threshold_whatever_the_detector_says(
    world: OpenWorldClassifier, asked: ImageDataset
) -> None:
    names, p = world.model.label_space_.names, world.model.predict_proba(asked)
    losses = world.known_.losses
    assert losses is not None
    inside = prediction_sets(class_p_values(losses, measure_losses(p)), ALPHA)
    sets, answers = world.predict_set(asked), world.predict(asked, top=9)
    assert [set(one) for one in sets] == [{names[j] for j in np.flatnonzero(row)} for row in inside]
    assert [answer.possible for answer in answers] == sets
    assert any(answer.label is None and answer.possible for answer in answers)
    for answer in answers:
        assert answer.possible == tuple(name for name, _ in answer.top if name in (answer.possible or ()))
    assert answers[0].to_row()["possible"] == "; ".join(sets[0])


@pytest.mark.parametrize("approach", ["linear-probe", "text-prior"])
@pytest.mark.parametrize("shots", [1, 2, 4])
def test_sets_hold_the_class_of_new_pictures(mini: Backbone, digits: ImageDataset, approach: str, shots: int) -> None:
    split = split_open_world(digits, shots=shots, unseen=0, seed=shots)
    model = FewShotClassifier(mini, approach).fit(split.support)
    reference = model.features(split.support), split.support.required_labels()
    world = OpenWorldClassifier.from_fit(model, None, ALPHA, reference)
    test = split.test.open("coverage").subset(np.arange(400))
    sets, truth = world.predict_set(test, 0.2), test.label_space.decode(test.required_labels())
    held = np.mean([name in one for name, one in zip(truth, sets, strict=True)])
    assert held >= 0.8 - 4.9 * np.sqrt(0.8 * 0.2 / (shots * 10))  # the shots are what varies
    if (approach, shots) == ("linear-probe", 1):  # a class without its only picture is nothing to such a probe
        assert {len(one) for one in sets} == {10}
    if approach == "text-prior":
        assert np.mean([len(one) for one in sets]) < 1.5


def test_smaller_alphas_have_larger_sets(world: OpenWorldClassifier, asked: ImageDataset) -> None:
    wide, narrow = world.predict_set(asked, 0.03), world.predict_set(asked, 0.3)
    assert all({*small} <= {*large} for small, large in zip(narrow, wide, strict=True))
    assert sum(map(len, narrow)) < sum(map(len, wide))
    assert {len(one) for one in world.predict_set(asked, 0.02)} == {9}  # 36 shots support 1 / 37
    with pytest.raises(UsageError, match="alpha"):
        world.predict_set(asked, 1.5)


def test_saved_sets_come_back_and_files_of_before_are_calibrated_anew(
    world: OpenWorldClassifier, mini: Backbone, asked: ImageDataset, tmp_path: Path
) -> None:
    world.save(tmp_path / "world")
    loaded = OpenWorldClassifier.load(tmp_path / "world", mini)
    assert loaded.known_.losses is not None
    assert loaded.predict_set(asked) == world.predict_set(asked)
    loaded.known_ = replace(loaded.known_, losses=None)
    loaded.save(tmp_path / "before")
    before = OpenWorldClassifier.load(tmp_path / "before", mini)
    assert before.known_.losses is None
    assert before.predict_set(asked) == world.predict_set(asked)


def test_a_named_class_is_calibrated_on_too_and_undone(
    mini: Backbone, four: OpenWorldSplit, asked: ImageDataset
) -> None:
    world = build(mini, four.support)
    before = world.predict_set(asked)
    world.add_class("nine", four.novel.open("naming").subset(np.arange(30, 40)))
    assert world.known_.losses is None
    nines = world.predict_set(asked.subset(np.arange(60, 80)))
    assert world.known_.losses is not None
    assert len(world.known_.losses) == 36 + 10
    assert sum("nine" in one for one in nines) > 15
    world.undo()
    assert world.predict_set(asked) == before


def test_a_class_by_its_name_alone_takes_another_calibration(mini: Backbone, four: OpenWorldSplit) -> None:
    world = build(mini, four.support, "text-prior")
    before = world.known_.losses
    world.add_class("zebra")
    assert world.known_.losses is None
    world.calibrate_sets()
    assert world.known_.losses is not None
    assert before is not None
    assert not np.array_equal(world.known_.losses, before)  # the same pictures share their probability with it


def test_a_copy_calibrates_once(world: OpenWorldClassifier, four: OpenWorldSplit) -> None:
    features, labels = world.reference_
    doubled = np.tile(features, (3, 1)), np.tile(labels, 3)
    again = OpenWorldClassifier.from_fit(world.model, None, ALPHA, doubled)
    assert again.known_.losses is not None
    assert np.isnan(again.known_.losses).sum() == 2 * len(labels)
    assert again.known_.losses[: len(labels)] == pytest.approx(world.known_.losses, rel=1e-6)
    assert again.predict_set(four.support) == world.predict_set(four.support)


def test_a_model_without_its_pictures_has_no_sets(world: OpenWorldClassifier, asked: ImageDataset) -> None:
    bare = OpenWorldClassifier.from_fit(world.model, None, ALPHA, (np.empty((0, 0)), np.empty(0, np.int64)))
    assert {answer.possible for answer in bare.predict(asked)} == {None}
    assert "possible" not in bare.predict(asked)[0].to_row()
    with pytest.raises(UsageError, match="known pictures"):
        bare.predict_set(asked)
    with pytest.raises(UsageError, match="expected 36 losses, got 2"):
        world.calibrate_sets(np.zeros(2))


def test_what_teaches_without_labels_teaches_the_models_of_the_folds_too(
    mini: Backbone, four: OpenWorldSplit, asked: ImageDataset, tmp_path: Path
) -> None:
    """Else the model of all would be another one than theirs, and sets on a weak tower hold half of the classes."""
    more = four.pool.subset(np.arange(150))
    world = OpenWorldClassifier(FewShotClassifier(mini, "text-prior"), detector="knn", alpha=ALPHA)
    alone = world.fit(four.support).known_.losses
    losses = world.fit(four.support, unlabelled=more).known_.losses
    assert alone is not None
    assert losses is not None
    assert np.abs(losses - alone).max() > 1e-3
    world.save(tmp_path / "world")
    loaded = OpenWorldClassifier.load(tmp_path / "world", mini)
    assert loaded.predict_set(asked) == world.predict_set(asked)
    loaded.add_class("nine", four.novel.open("naming").subset(np.arange(30, 40)))
    assert {answer.possible for answer in loaded.predict(asked)} == {None}
    with pytest.raises(UsageError, match="not kept for later"):
        loaded.predict_set(asked)


def test_a_trained_model_is_calibrated_when_it_is_asked(tiny: Backbone, four: OpenWorldSplit) -> None:
    model = FewShotClassifier(tiny, "mlp", unfreeze=1, epochs=1)
    world = OpenWorldClassifier(model, detector="knn", alpha=ALPHA).fit(four.support)
    pictures = four.support.subset(np.arange(8))
    assert {answer.possible for answer in world.predict(pictures)} == {None}
    sets = world.predict_set(pictures)
    assert [answer.possible for answer in world.predict(pictures)] == sets
