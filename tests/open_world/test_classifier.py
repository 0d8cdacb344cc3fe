"""Saying "unknown": the choice without the unseen, the calibration, and the object that users hold."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

import clip_fewshot as cf
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.conformal.calibration import Calibrated
from clip_fewshot.conformal.p_values import UnsupportedAlphaError
from clip_fewshot.data.captions import TEMPLATES
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.discovery.undecided import UNDECIDED
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.features.texts import class_texts
from clip_fewshot.few_shot.approach import OWN
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.model import Recipe, encode_frozen, prepare_support
from clip_fewshot.few_shot.trainer import TrainSettings
from clip_fewshot.novelty import DETECTORS, LOFDetector
from clip_fewshot.open_world.alternatives import Alternative, NoveltyChoice
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.feature_spaces import build_space
from clip_fewshot.open_world.rejector import Rejector, fit_rejector
from clip_fewshot.open_world.select_detector import select_detector
from clip_fewshot.open_world.text_features import widen_texts

QUICK = TrainSettings(epochs=1, min_steps=6)


@pytest.fixture(scope="module")
def eight(digits: ImageDataset) -> OpenWorldSplit:
    return split_open_world(digits, shots=8, unseen=["three", "eight"], seed=0)


@pytest.fixture(scope="module")
def world(tiny: Backbone, eight: OpenWorldSplit) -> OpenWorldClassifier:
    model = FewShotClassifier(tiny, "mlp", unfreeze=1, backbone_lr=1e-3, epochs=2)
    return OpenWorldClassifier(model, alpha=0.1).fit(eight.support)


def recipe(approach: str) -> Recipe:
    return Recipe(OWN[approach], OWN[approach].point, QUICK, probe_c=1.0, seed=0)


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


CHOICES = {
    "lof": Alternative("lof", "frozen", 3),
    "tuned": Alternative("lof", "tuned", 3),
    "both": Alternative("knn", "both", 3),
    "depth": Alternative("mahalanobis", "frozen and depth 1"),
    "depth of an earlier release": Alternative("mahalanobis", "depth 1"),
    "names beside depth": Alternative("text-margin", "frozen and depth 1"),
    "folds of frozen features": Alternative("energy"),
    "texts": Alternative("negative-labels"),
    "names": Alternative("text-margin"),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_a_rejector_of_any_kind_survives_its_file(
    kind: str, tiny: Backbone, eight: OpenWorldSplit, tmp_path: Path
) -> None:
    data = prepare_support(tiny, eight.support, [0, 1], views=1, seed=0)
    names = eight.support.label_space.names
    rejector = fit_rejector(tiny, recipe("mlp"), data, encode_frozen(data), NoveltyChoice(CHOICES[kind]), names=names)
    assert len(rejector.judges) == (4 if kind in ("tuned", "both", "folds of frozen features") else 1)
    assert rejector.n_calibration == len(eight.support)
    model = FewShotClassifier(tiny, "mlp", unfreeze=1, epochs=1).fit(eight.support)
    reference = encode_frozen(data), data.labels
    before = OpenWorldClassifier.from_fit(model, rejector, 0.1, reference)
    before.save(tmp_path / "w")
    after = OpenWorldClassifier.load(tmp_path / "w", tiny)
    pictures = eight.pool.subset(np.arange(30))
    assert after.predict(pictures) == before.predict(pictures)
    together = before.predict(pictures, together=True)
    assert after.predict(pictures, together=True) == together
    assert [one.score for one in together] == [one.score for one in before.predict(pictures)]
    assert [one.p_value for one in together] != [one.p_value for one in before.predict(pictures)]


def test_a_reader_of_names_is_fitted_again_when_a_class_comes(tiny: Backbone, eight: OpenWorldSplit) -> None:
    """Its texts know nothing of the new name."""
    data = prepare_support(tiny, eight.support, [0], views=1, seed=0)
    frozen, names = encode_frozen(data), eight.support.label_space.names
    reads, looks = (
        fit_rejector(tiny, recipe("linear-probe"), data, frozen, NoveltyChoice(Alternative(kind)), names=names)
        for kind in ("text-margin", "mahalanobis-margin")
    )
    assert reads.extend(frozen, data.labels) is None
    assert looks.extend(frozen, data.labels) is not None


def test_on_frozen_features_the_p_value_is_that_of_full_conformal(tiny: Backbone, eight: OpenWorldSplit) -> None:
    data = prepare_support(tiny, eight.support, [0], views=1, seed=0)
    frozen = encode_frozen(data)
    rejector = fit_rejector(tiny, recipe("linear-probe"), data, frozen, NoveltyChoice(CHOICES["lof"]))
    fresh = frozen[:20] + 0.05 * np.random.default_rng(0).normal(size=frozen[:20].shape)
    alike = build_space("frozen", frozen, frozen), build_space("frozen", fresh, fresh)
    expected = Calibrated(partial(LOFDetector, n_neighbors=3), "full", levelled=True).fit(alike[0], data.labels)
    found = rejector.verdict(fresh, [])
    np.testing.assert_array_equal(found.p, expected.p_values(alike[1]))
    scores = LOFDetector(n_neighbors=3).fit(alike[0], data.labels).score_samples(alike[1])
    np.testing.assert_array_equal(found.scores, scores)


def test_judges_never_saw_what_calibrates_them(tiny: Backbone, eight: OpenWorldSplit) -> None:
    """Each support picture is held out by exactly one judge, and is not among the rows that judge knows."""
    data = prepare_support(tiny, eight.support, [0, 1], views=1, seed=0)
    rejector = fit_rejector(tiny, recipe("mlp"), data, encode_frozen(data), NoveltyChoice(CHOICES["tuned"]))
    held_out = 0
    for judge in rejector.judges:
        assert judge.held_out is not None
        assert len(judge.known.rows) + len(judge.held_out.rows) == len(eight.support)
        assert not {row.tobytes() for row in judge.known.rows} & {row.tobytes() for row in judge.held_out.rows}
        held_out += len(judge.held_out.rows)
    assert held_out == len(eight.support)


def test_the_choice_is_made_on_known_classes_alone_and_says_what_it_left(tiny: Backbone, eight: OpenWorldSplit) -> None:
    data = prepare_support(tiny, eight.support, [0, 1], views=1, seed=0)
    names = eight.support.label_space.names
    choice = select_detector(tiny, recipe("mlp"), data, encode_frozen(data), names=names)
    assert choice is not None
    table = choice.table()
    assert str(choice.best) in table
    spaces = ("frozen features", "tuned features", "both features", "frozen and depth 1 features")
    for kind in (*DETECTORS, *spaces, "text-margin, frozen and depth 1", "k = 3"):
        assert any(kind in row for row in table), kind
    assert list(table.values()) == sorted(table.values(), reverse=True)
    others = [v for row, v in table.items() if not row.startswith(f"{choice.best.detector}, {choice.best.space}")]
    assert choice.margin == pytest.approx(table[str(choice.best)] - max(others))
    assert choice.far_table() == {}
    broken = select_detector(tiny, recipe("mlp"), data, encode_frozen(data), pictures=eight.support, names=names)
    assert broken is not None
    assert broken.table() == pytest.approx(table)  # hidden classes are found as before
    assert list(broken.far_table()) == list(table)
    assert all(0 <= far <= 1 for far in broken.far_table().values())
    only_frozen = select_detector(tiny, recipe("linear-probe"), data, encode_frozen(data), detector="knn")
    assert only_frozen is not None
    assert {row.split(",")[0] for row in only_frozen.table()} == {"knn"}
    assert not any("tuned" in row or "both" in row for row in only_frozen.table())
    assert any("depth 1" in row for row in only_frozen.table())
    last = select_detector(
        tiny, recipe("linear-probe"), data, encode_frozen(data), detector="knn", spaces=("frozen",), names=names
    )
    assert last is not None
    expected = {row: auroc for row, auroc in only_frozen.table().items() if "frozen features" in row}
    assert last.table() == pytest.approx(expected)


def test_a_rate_per_class_takes_as_many_shots_of_each(tiny: Backbone, eight: OpenWorldSplit, tmp_path: Path) -> None:
    model = FewShotClassifier(tiny, "linear-probe")
    with pytest.raises(UnsupportedAlphaError, match="of each class"):
        OpenWorldClassifier(model, alpha=0.05, per_class=True).fit(eight.support)
    world = OpenWorldClassifier(model, alpha=0.2, per_class=True).fit(eight.support)
    assert world.rejector_ is not None
    assert world.rejector_.n_calibration == 8
    assert world.rejector_.per_class
    world.save(tmp_path / "w")
    loaded = OpenWorldClassifier.load(tmp_path / "w", tiny)
    assert loaded.per_class
    assert loaded.rejector_ is not None
    assert loaded.rejector_.per_class
    with pytest.raises(UsageError, match="calibrated per class"):
        OpenWorldClassifier(model, detector="energy", alpha=0.2, per_class=True).fit(eight.support)


def test_two_classes_leave_nothing_to_hide_and_one_shot_nothing_to_calibrate(
    tiny: Backbone, eight: OpenWorldSplit
) -> None:
    two = eight.support.restrict(["zero", "one"])
    data = prepare_support(tiny, two, [0], views=1, seed=0)
    choice = select_detector(tiny, recipe("linear-probe"), data, encode_frozen(data))
    assert choice is not None
    assert choice.selection is None
    assert choice.table() == {}
    single = two.subset(np.unique(two.required_labels(), return_index=True)[1])
    data = prepare_support(tiny, single, [0], views=1, seed=0)
    assert select_detector(tiny, recipe("linear-probe"), data, encode_frozen(data)) is None


def test_what_was_unknown_can_be_grouped(eight: OpenWorldSplit) -> None:
    # A tower that has learned: in features of a random one, other pictures are no classes, and no group is right.
    mini = cf.load_backbone("mini")
    world = OpenWorldClassifier(FewShotClassifier(mini, "linear-probe"), alpha=0.05).fit(eight.support)
    with pytest.raises(UsageError, match="predict some pictures"):
        world.discover()
    answers = world.predict(eight.novel.open("test of discovery"))
    groups = world.discover()
    flagged = sum(answer.label is None for answer in answers)
    assert len(world.discovery_.labels) == len(world.grouped_.answered)
    assert world.grouped_.unknown.sum() == flagged > 0
    told = dict(zip(eight.novel.open("test of discovery").digests, answers, strict=True))
    assert any(name is not None for group in groups for name in group.answered)  # undecided pictures join
    assert [len(group) for group in groups] == sorted(map(len, groups), reverse=True)
    for group in groups:
        assert len(group.pictures) == len(group.features) == len(group.p_values)
        assert sorted(group.exemplars) == list(range(len(group)))
        assert group.p_values.max() <= UNDECIDED
        assert group.answered == tuple(told[digest].label for digest in group.pictures.digests)
        assert group.nearest is not None
        assert group.nearest[0] in eight.seen.names
        assert -1 <= group.nearest[1] <= 1
    world.predict(eight.novel.open("a cell that runs twice"))
    assert [len(group) for group in world.discover()] == [len(group) for group in groups]


def test_an_alpha_that_the_shots_cannot_keep_is_refused_with_the_number_that_would_do(
    tiny: Backbone, eight: OpenWorldSplit
) -> None:
    model = FewShotClassifier(tiny, "linear-probe")
    with pytest.raises(UnsupportedAlphaError, match="999"):
        OpenWorldClassifier(model, alpha=0.001).fit(eight.support)
    data = prepare_support(tiny, eight.support, [0], views=1, seed=0)
    rejector = fit_rejector(tiny, recipe("linear-probe"), data, encode_frozen(data), NoveltyChoice(CHOICES["lof"]))
    assert "999" in str(rejector.refusal(0.001))
    assert rejector.refusal(0.1) is None
    assert not rejector.flags(np.full(5, 1e-9), 0.001).any()


def test_an_alpha_that_nobody_asked_for_is_the_least_that_the_shots_support(tiny: Backbone, tmp_path: Path) -> None:
    """Three shots of two classes support 1 / 7, and more of them the usual rate again; a file keeps who asked."""
    split = split_open_world(cf.read_dataset("digits"), shots=3, unseen=8)
    model = FewShotClassifier(tiny, "linear-probe")
    with pytest.warns(RuntimeWarning, match=r"alpha is 0\.1429, .* 6 calibration images; the usual 0\.05 takes 19"):
        world = OpenWorldClassifier(model, detector="knn").fit(split.support)
    assert (world.alpha, world.alpha_) == (None, pytest.approx(1 / 7))
    assert world.rejector_ is not None
    assert world.rejector_.refusal(world.alpha_) is None
    world.save(tmp_path / "w")
    loaded = OpenWorldClassifier.load(tmp_path / "w", tiny)
    assert (loaded.alpha, loaded.alpha_) == (None, world.alpha_)
    loaded.assign(split.pool.subset(np.arange(20)), split.seen.names[0])
    assert loaded.alpha_ == 0.05
    with pytest.raises(UnsupportedAlphaError, match="19"):
        OpenWorldClassifier(model, detector="knn", alpha=0.05).fit(split.support)


def test_a_rejector_of_an_earlier_release_ranks_as_it_did(tiny: Backbone, eight: OpenWorldSplit) -> None:
    data = prepare_support(tiny, eight.support, [0], views=1, seed=0)
    frozen = encode_frozen(data)
    rejector = fit_rejector(tiny, recipe("linear-probe"), data, frozen, NoveltyChoice(CHOICES["lof"]))
    about = rejector.about()
    assert about.pop("levelled")
    old = Rejector.from_tensors(about, rejector.to_tensors(), tiny, {}, "w")
    pooled = Calibrated(partial(LOFDetector, n_neighbors=3), "full").fit(old.judges[0].known.rows, data.labels)
    fresh = frozen[:20] + 0.05 * np.random.default_rng(0).normal(size=frozen[:20].shape)
    found = old.verdict(fresh, []).p.tolist()
    assert found == pooled.p_values(build_space("frozen", fresh, fresh)).tolist()
    assert found != rejector.verdict(fresh, []).p.tolist()


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


def test_detectors_read_the_texts_of_own_templates(tiny: Backbone, eight: OpenWorldSplit) -> None:
    texts, names = ("the digit {}", "one {}"), eight.support.label_space.names
    for chosen, expected in ((texts, texts), ((), TEMPLATES)):
        model = FewShotClassifier(tiny, "linear-probe", templates=chosen)
        rejector = OpenWorldClassifier(model, detector="mcm", alpha=0.2).fit(eight.support).rejector_
        assert rejector is not None
        assert rejector.texts is not None
        by_name = class_texts(tiny, names, expected)
        np.testing.assert_array_equal(rejector.texts["concepts"], np.stack([by_name[name] for name in names]))


def test_a_number_of_neighbours_is_that_of_a_detector_that_has_some(tiny: Backbone, eight: OpenWorldSplit) -> None:
    data = prepare_support(tiny, eight.support, [0], views=1, seed=0)
    given = tiny, recipe("linear-probe"), data, encode_frozen(data)
    choice = select_detector(*given, detector="lof", n_neighbors=6)
    assert choice is not None
    assert (choice.best.detector, choice.best.n_neighbors) == ("lof", 6)
    assert choice.selection is not None
    assert {row.name.n_neighbors for row in choice.selection.table} == {6}
    usual = select_detector(*given, detector="lof")
    assert usual is not None
    assert usual.selection is not None
    assert {row.name.n_neighbors for row in usual.selection.table} == {2, 3, 5}  # all that eight shots allow
    for name in ("auto", "mahalanobis"):
        with pytest.raises(UsageError, match=f"`n_neighbors`: expected a detector that has neighbours, got '{name}'"):
            select_detector(*given, detector=name, n_neighbors=6)


def test_another_camera_is_told_of_what_was_predicted_last(tiny: Backbone, digits: ImageDataset) -> None:
    """The tiny backbone sees brightness before all else: a darker copy of known pictures is another camera's."""
    split = split_open_world(digits, shots=8, unseen=3, seed=0)
    world = OpenWorldClassifier(FewShotClassifier(tiny, "linear-probe", epochs=1), "knn", 0.1).fit(split.support)
    assert world.find_shift().verdict() == "same"  # nothing was predicted
    known = split.test.open("test of shift")
    some = [known.open(i) for i in np.random.default_rng(0).permutation(len(known))[:80]]
    assert world.find_shift(some).verdict() == "same"
    world.predict([picture.point(lambda value: value // 2 + 100) for picture in some])
    told = world.find_shift()
    assert told.verdict() != "same"
    assert told == world.find_shift([picture.point(lambda value: value // 2 + 100) for picture in some])


def test_depth_stands_beside_frozen_features_at_half_their_length_and_texts_see_none_of_it() -> None:
    draw = np.random.default_rng(0)
    frozen, deep, texts = (draw.normal(size=shape) for shape in ((12, 5), (12, 3), (2, 5)))
    rows = build_space("frozen and depth 1", frozen, deep)
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (frozen, deep)]
    np.testing.assert_allclose(rows, np.concatenate([unit[0], unit[1] / 2], axis=1), rtol=1e-12)
    np.testing.assert_allclose(build_space("depth 2", frozen, deep), unit[1], rtol=1e-12)
    wide = widen_texts({"concepts": texts}, 8)
    assert wide is not None
    np.testing.assert_allclose(rows @ wide["concepts"].T, unit[0] @ texts.T, rtol=1e-12)
    assert widen_texts(None, 8) is None
