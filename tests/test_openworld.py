"""Saying "unknown": the choice without the unseen, the calibration, and the object that users hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.classifier import (
    FewShotClassifier,
    Recipe,
    TrainSettings,
    TuneParams,
    frozen_features,
    prepare_support,
)
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.novelty.conformal import UnsupportedAlphaError, p_values
from clip_fewshot.openworld import OpenWorldClassifier
from clip_fewshot.rejection import NoveltyChoice, choose_novelty, fit_rejector, in_space

QUICK = TrainSettings(epochs=1, min_steps=6)


@pytest.fixture(scope="module")
def eight(digits: ImageDataset) -> OpenWorldSplit:
    return split_open_world(digits, shots=8, unseen=["three", "eight"], seed=0)


@pytest.fixture(scope="module")
def world(tiny: Backbone, eight: OpenWorldSplit) -> OpenWorldClassifier:
    model = FewShotClassifier(tiny, "mlp", unfreeze=1, backbone_lr=1e-3, epochs=2)
    return OpenWorldClassifier(model, alpha=0.1).fit(eight.support)


def recipe(approach: str) -> Recipe:
    return Recipe(TuneParams(approach, unfreeze=0 if approach == "linear-probe" else 1), QUICK, probe_c=1.0, seed=0)


def test_answers_carry_decision_p_value_and_ranking(world: OpenWorldClassifier, eight: OpenWorldSplit) -> None:
    answers = world.predict(eight.pool.subset(np.arange(60)), top=3)
    for answer in answers:
        assert (answer.label is None) == (answer.p_value <= 0.1)
        assert answer.label in (None, answer.top[0][0])
        probabilities = [p for _, p in answer.top]
        assert probabilities == sorted(probabilities, reverse=True)
        assert len(answer.top) == 3


def test_saved_and_loaded_gives_the_same_answers(
    world: OpenWorldClassifier, eight: OpenWorldSplit, tiny: Backbone, tmp_path: Path
) -> None:
    pictures = eight.pool.subset(np.arange(40))
    world.save(tmp_path / "world")
    loaded = OpenWorldClassifier.load(tmp_path / "world", tiny)
    assert loaded.predict(pictures) == world.predict(pictures)
    assert loaded.alpha == world.alpha


@pytest.mark.parametrize("space", ["frozen", "tuned", "both"])
def test_a_rejector_of_any_space_survives_its_file(
    space: str, tiny: Backbone, eight: OpenWorldSplit, tmp_path: Path
) -> None:
    data = prepare_support(tiny, eight.support, [0, 1], views=1, seed=0)
    rejector = fit_rejector(tiny, recipe("mlp"), data, frozen_features(data), NoveltyChoice(space, 3))
    assert len(rejector.judges) == (1 if space == "frozen" else 4)
    assert rejector.n_calibration == len(eight.support)
    model = FewShotClassifier(tiny, "mlp", unfreeze=1, epochs=1).fit(eight.support)
    reference = frozen_features(data), data.labels
    before = OpenWorldClassifier.from_fit(model, rejector, 0.1, reference)
    before.save(tmp_path / "w")
    after = OpenWorldClassifier.load(tmp_path / "w", tiny)
    pictures = eight.pool.subset(np.arange(30))
    assert after.predict(pictures) == before.predict(pictures)


def test_on_frozen_features_the_p_value_is_the_plain_conformal_one(tiny: Backbone, eight: OpenWorldSplit) -> None:
    data = prepare_support(tiny, eight.support, [0], views=1, seed=0)
    frozen = frozen_features(data)
    rejector = fit_rejector(tiny, recipe("linear-probe"), data, frozen, NoveltyChoice("frozen", 3))
    (judge,) = rejector.judges
    fresh = frozen + 0.05 * np.random.default_rng(0).normal(size=frozen.shape)
    scores = rejector.judge(fresh, [])
    expected = p_values(judge.calibration, judge.detector.score_samples(in_space("frozen", fresh, fresh)))
    np.testing.assert_array_equal(rejector.p_values(scores), expected)


def test_judges_never_saw_what_calibrates_them(tiny: Backbone, eight: OpenWorldSplit) -> None:
    """Each support picture is held out by exactly one judge, and is not among the rows that judge knows."""
    data = prepare_support(tiny, eight.support, [0, 1], views=1, seed=0)
    rejector = fit_rejector(tiny, recipe("mlp"), data, frozen_features(data), NoveltyChoice("tuned", 3))
    known = [len(judge.detector.rows_) for judge in rejector.judges]
    held_out = [len(judge.calibration) for judge in rejector.judges]
    assert sum(held_out) == len(eight.support)
    assert all(k + h <= len(eight.support) for k, h in zip(known, held_out, strict=True))


def test_the_choice_is_made_on_known_classes_alone_and_says_what_it_left(tiny: Backbone, eight: OpenWorldSplit) -> None:
    data = prepare_support(tiny, eight.support, [0, 1], views=1, seed=0)
    choice = choose_novelty(tiny, recipe("mlp"), data, frozen_features(data))
    assert choice is not None
    table = choice.table()
    assert len(table) == 3 * 3  # spaces x the neighbours below 8 shots less the fold
    assert next(iter(table)) == f"{choice.space} features, k = {choice.n_neighbors}"
    assert list(table.values()) == sorted(table.values(), reverse=True)
    only_frozen = choose_novelty(tiny, recipe("linear-probe"), data, frozen_features(data))
    assert only_frozen is not None
    assert only_frozen.space == "frozen"


def test_two_classes_leave_nothing_to_hide_and_one_shot_nothing_to_calibrate(
    tiny: Backbone, eight: OpenWorldSplit
) -> None:
    two = eight.support.restrict(["zero", "one"])
    data = prepare_support(tiny, two, [0], views=1, seed=0)
    choice = choose_novelty(tiny, recipe("linear-probe"), data, frozen_features(data))
    assert choice is not None
    assert choice.selection is None
    assert choice.table() == {}
    single = two.subset(np.unique(two.required_labels(), return_index=True)[1])
    data = prepare_support(tiny, single, [0], views=1, seed=0)
    assert choose_novelty(tiny, recipe("linear-probe"), data, frozen_features(data)) is None


def test_what_was_unknown_can_be_grouped(world: OpenWorldClassifier, eight: OpenWorldSplit) -> None:
    world.unknown_.clear()
    with pytest.raises(UsageError, match="predict some pictures"):
        world.discover()
    answers = world.predict(eight.novel.open("test of discovery"))
    groups = world.discover()
    flagged = sum(answer.label is None for answer in answers)
    assert len(world.discovery_.labels) == flagged >= sum(map(len, groups)) > 0
    assert [len(group) for group in groups] == sorted(map(len, groups), reverse=True)
    for group in groups:
        assert len(group.pictures) == len(group.features) == len(group.p_values)
        assert sorted(group.exemplars) == list(range(len(group)))
        assert group.p_values.max() <= world.alpha + 1e-9
        assert group.nearest is not None
        assert group.nearest[0] in eight.seen.names
        assert -1 <= group.nearest[1] <= 1


def test_an_alpha_that_the_shots_cannot_keep_is_refused_with_the_number_that_would_do(
    tiny: Backbone, eight: OpenWorldSplit
) -> None:
    model = FewShotClassifier(tiny, "linear-probe")
    with pytest.raises(UnsupportedAlphaError, match="999"):
        OpenWorldClassifier(model, alpha=0.001).fit(eight.support)
    data = prepare_support(tiny, eight.support, [0], views=1, seed=0)
    rejector = fit_rejector(tiny, recipe("linear-probe"), data, frozen_features(data), NoveltyChoice("frozen", 3))
    assert "999" in str(rejector.refusal(0.001))
    assert rejector.refusal(0.1) is None
    assert not rejector.flags(np.full(5, 1e-9), 0.001).any()


def test_an_unknown_detector_is_refused_by_name(tiny: Backbone, eight: OpenWorldSplit) -> None:
    with pytest.raises(UsageError, match="lof"):
        OpenWorldClassifier(FewShotClassifier(tiny, "linear-probe"), detector="lop").fit(eight.support)


def test_a_classifier_folder_is_not_an_open_world_one(tiny: Backbone, eight: OpenWorldSplit, tmp_path: Path) -> None:
    FewShotClassifier(tiny, "linear-probe").fit(eight.support).save(tmp_path / "m")
    with pytest.raises(ArtifactError, match="open-world classifier"):
        OpenWorldClassifier.load(tmp_path / "m", tiny)


@pytest.mark.slow
def test_false_alarms_stay_near_what_was_asked_for(digits: ImageDataset) -> None:
    """Eight support sets of 16 shots through the shipped model: the mean lies below twice alpha, the theory's bound."""
    from clip_fewshot.backbones.clip import load_backbone
    from clip_fewshot.data.sampling import draw_support

    backbone, split = load_backbone("mini"), split_open_world(digits, shots=16, unseen=3, seed=0)
    rates = []
    for draw in range(8):
        support = draw_support(split.pool, 16, seed=100 + draw)
        model = FewShotClassifier(backbone, "contrastive", unfreeze=1, seed=draw)
        world = OpenWorldClassifier(model, alpha=0.05).fit(support)
        fresh = split.pool.subset(np.flatnonzero(~np.isin(np.array(split.pool.digests), np.array(support.digests))))
        rates.append(np.mean([answer.label is None for answer in world.predict(fresh)]))
    assert 0.01 < np.mean(rates) < 0.1
