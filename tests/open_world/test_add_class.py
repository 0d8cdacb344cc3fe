"""Naming what was unknown: what stays to the last bit, what comes back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.model import encode_frozen, prepare_support
from clip_fewshot.open_world.alternatives import Alternative, NoveltyChoice
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.rejector import fit_rejector

PROBED = ("logistic", "prototype", "cache")


@pytest.fixture(scope="module")
def six(digits: ImageDataset) -> OpenWorldSplit:
    return split_open_world(digits, shots=6, unseen=["three", "eight", "nine", "five"], seed=0)


@pytest.fixture(scope="module")
def asked(six: OpenWorldSplit) -> ImageDataset:
    return six.pool.subset(np.arange(0, 200, 5))


def world_of(backbone: Backbone, split: OpenWorldSplit, approach: str = "linear-probe", **options: object):
    options = {"unfreeze": 1, "backbone_lr": 1e-3, "epochs": 1} | options
    model = FewShotClassifier(backbone, approach, **options).fit(split.support)  # type: ignore[arg-type]
    data = prepare_support(backbone, split.support, [model.point.unfreeze], 1, 0)
    frozen = encode_frozen(data)
    choice = NoveltyChoice(Alternative("lof", "frozen", 3))
    rejector = fit_rejector(backbone, model.recipe_, data, frozen, choice)
    return OpenWorldClassifier.from_fit(model, rejector, 0.1, (frozen, data.labels), split.support)


def strangers(split: OpenWorldSplit, name: str, count: int = 8, start: int = 0) -> ImageDataset:
    novel = split.novel.open("test of naming")
    rows = np.flatnonzero(novel.required_labels() == novel.label_space.encode([name])[0])
    return novel.subset(rows[start : start + count])


def logits(world: OpenWorldClassifier, pictures: ImageDataset) -> np.ndarray:
    probe = world.model.model_.probe
    assert probe is not None
    return np.ascontiguousarray(probe.logits(world.look(pictures).features[world.model.model_.point.approach]))


def said(world: OpenWorldClassifier, pictures: ImageDataset) -> list[tuple[object, ...]]:
    return [tuple(answer) for answer in world.judge(world.look(pictures))]


@pytest.mark.parametrize(("approach", "probe"), [*(("linear-probe", p) for p in PROBED), ("contrastive", "logistic")])
def test_a_probe_keeps_the_logits_of_the_classes_before(
    approach: str, probe: str, tiny: Backbone, six: OpenWorldSplit, asked: ImageDataset
) -> None:
    world = world_of(tiny, six, approach, probe=probe)
    before, answers = logits(world, asked), said(world, asked)
    report = world.name(strangers(six, "eight"), "ate")
    world.name(strangers(six, "three"), "axolotl")
    after = logits(world, asked)
    assert after.shape[1] == before.shape[1] + 2
    assert np.ascontiguousarray(after[:, : before.shape[1]]).tobytes() == before.tobytes()
    assert not report.refitted
    assert report.pictures == {"ate": 8}
    assert report.before is not None
    assert report.change is not None
    assert report.after is not None
    assert report.change.mean == pytest.approx(report.after.mean - report.before.mean)
    assert report.change.ci95[0] <= report.change.mean <= report.change.ci95[1]
    assert report.before.n_test == len(six.support)
    assert world.undo().classes.keys() == {"axolotl"}
    world.undo()
    assert logits(world, asked).tobytes() == before.tobytes()
    assert said(world, asked) == answers


@pytest.mark.parametrize(("approach", "unfreeze"), [("mlp", 0), ("mlp", 1)])
def test_a_head_is_trained_again_and_comes_back(
    approach: str, unfreeze: int, tiny: Backbone, six: OpenWorldSplit, asked: ImageDataset, tmp_path: Path
) -> None:
    world = world_of(tiny, six, approach, unfreeze=unfreeze)
    answers = said(world, asked)
    world.save(tmp_path / "w")
    report = world.name(strangers(six, "eight"), "ate")
    assert report.refitted
    assert report.change is not None
    assert world.model.label_space_.names[-1] == "ate"
    named = said(world, asked)
    assert len(named[0][3]) == 5
    again = OpenWorldClassifier.load(tmp_path / "w", tiny)  # knows its pictures by the squares it kept
    assert again.name(strangers(six, "eight"), "ate") == report
    assert said(again, asked) == named
    world.undo()
    assert said(world, asked) == answers


@pytest.mark.parametrize("approach", ["linear-probe", "mlp"])
def test_history_and_undo_survive_the_file(
    approach: str, tiny: Backbone, six: OpenWorldSplit, asked: ImageDataset, tmp_path: Path
) -> None:
    world = world_of(tiny, six, approach, unfreeze=0)
    states = [said(world, asked)]
    for name, shown in (("eight", "ate"), ("three", "axolotl")):
        world.name(strangers(six, name), shown)
        states.append(said(world, asked))
    world.save(tmp_path / "w")
    world.save(tmp_path / "w")
    loaded = OpenWorldClassifier.load(tmp_path / "w", tiny)
    assert loaded.named_ == world.named_
    assert loaded.shown_ == world.shown_
    for state in reversed(states):
        assert said(loaded, asked) == state
        if loaded.named_:
            loaded.undo()
    with pytest.raises(UsageError, match="a naming"):
        loaded.undo()


def test_what_was_named_is_known_from_then_on(tiny: Backbone, six: OpenWorldSplit) -> None:
    world = world_of(tiny, six)
    more = strangers(six, "eight", 60, start=20)
    before = world.predict(more)
    flagged = np.mean([answer.label is None for answer in before])
    world.name(strangers(six, "eight", 16), "ate")
    after = world.predict(more)
    assert np.mean([answer.label == "ate" for answer in after]) > 0.25  # random weights see something
    assert np.mean([answer.label is None for answer in after]) <= flagged
    assert {name for answer in after for name, _ in answer.top} >= {"ate"}


def test_a_group_can_be_named_and_leaves_the_unknown(tiny: Backbone, six: OpenWorldSplit) -> None:
    world = world_of(tiny, six)
    world.predict(six.novel.open("test of groups"))
    count = sum(len(part.pictures) for part in world.unknown_)
    group = world.discover()[0]
    world.name(group, "strange")
    assert sum(len(part.pictures) for part in world.unknown_) == count - len(group)
    assert world.named_[0].classes["strange"] == group.pictures.digests
    world.predict(six.test.open("later"))
    later = len(world.unknown_[1].pictures)
    world.undo()
    assert sum(len(part.pictures) for part in world.unknown_) == count + later


def test_several_classes_at_once_are_one_entry(tiny: Backbone, six: OpenWorldSplit, asked: ImageDataset) -> None:
    world = world_of(tiny, six)
    before = said(world, asked)
    report = world.extend({"ate": strangers(six, "eight"), "axolotl": strangers(six, "three", 5)})
    assert report.pictures == {"ate": 8, "axolotl": 5}
    assert len(world.named_) == 1
    world.undo()
    assert said(world, asked) == before


def test_pictures_join_a_class_that_is_there_by_assign_alone(
    tiny: Backbone, six: OpenWorldSplit, asked: ImageDataset
) -> None:
    world = world_of(tiny, six)
    before = said(world, asked)
    with pytest.raises(UsageError, match="assign"):
        world.name(strangers(six, "eight"), "one")
    report = world.assign(strangers(six, "eight"), "one")
    assert report.refitted
    assert world.model.label_space_.names == six.seen.names
    assert not world.named_[0].new
    world.undo()
    assert said(world, asked) == before
    with pytest.raises(UsageError, match="class names"):
        world.assign(strangers(six, "eight"), "nonsense")


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x00", "\u202eabc", " axolotl", "x" * 101, "\ud800", "Unknown"])
def test_names_that_cannot_be_read_are_refused(name: str, tiny: Backbone, six: OpenWorldSplit) -> None:
    world = world_of(tiny, six)
    with pytest.raises(UsageError, match="class name"):
        world.name(strangers(six, "eight"), name)
    assert world.named_ == ()


def test_names_that_a_person_would_confuse_are_refused(tiny: Backbone, six: OpenWorldSplit) -> None:
    world = world_of(tiny, six)
    with pytest.raises(UsageError, match="'ONE' beside 'one'"):
        world.name(strangers(six, "eight"), "ONE")
    with pytest.raises(UsageError, match="'Axolotl' beside 'axolotl'"):
        world.extend({"axolotl": strangers(six, "eight"), "Axolotl": strangers(six, "three")})


def test_a_picture_has_one_name(tiny: Backbone, six: OpenWorldSplit) -> None:
    world = world_of(tiny, six)
    pictures = strangers(six, "eight")
    world.name(pictures, "ate")
    with pytest.raises(UsageError, match="have their class already"):
        world.name(pictures, "axolotl")
    with pytest.raises(UsageError, match="one in several"):
        world.extend({"a": strangers(six, "three"), "b": strangers(six, "three")})
    with pytest.raises(UsageError, match="got none"):
        world.name(pictures.subset(np.arange(0)), "axolotl")
    report = world.name(strangers(six, "eight", 12), "rest")
    assert report.pictures == {"rest": 4}


def test_pictures_that_were_named_are_in_no_test_any_more(tiny: Backbone, six: OpenWorldSplit) -> None:
    world = world_of(tiny, six)
    test = six.test.open("score")
    plain = world.evaluate(test)
    assert (plain.notes, plain.n_test) == ((), len(test))
    right = [a.label == n for a, n in zip(world.predict(test), test.label_space.decode(test.labels), strict=True)]
    assert plain.mean == np.mean(right)
    chosen = test.subset(np.arange(5))
    world.name(chosen, "odd")
    scored = world.evaluate(test)
    assert scored.n_test == len(test) - 5
    assert scored.notes == ("left out, for a class was named on them: 5",)
    world.undo()
    assert world.evaluate(test).n_test == len(test) - 5
    with pytest.raises(UsageError, match="no class was named on"):
        world.score(chosen)


def test_a_model_without_its_pictures_says_so(tiny: Backbone, six: OpenWorldSplit) -> None:
    fitted = world_of(tiny, six, "mlp")
    bare = OpenWorldClassifier.from_fit(fitted.model, fitted.rejector_, 0.1, fitted.reference_)
    with pytest.raises(UsageError, match="pictures that the model was trained on"):
        bare.name(strangers(six, "eight"), "ate")
    features_only = OpenWorldClassifier.from_fit(world_of(tiny, six).model, None, 0.1, fitted.reference_)
    assert features_only.name(strangers(six, "eight"), "ate").pictures == {"ate": 8}


def test_a_world_whose_detector_is_chosen_learns_and_forgets_too(
    tiny: Backbone, six: OpenWorldSplit, asked: ImageDataset, tmp_path: Path
) -> None:
    world = OpenWorldClassifier(FewShotClassifier(tiny, "linear-probe"), alpha=0.1).fit(six.support)
    world.save(tmp_path / "w")
    before = said(world, asked)
    world.name(strangers(six, "eight"), "ate")
    named = said(world, asked)
    loaded = OpenWorldClassifier.load(tmp_path / "w", tiny)
    loaded.name(strangers(six, "eight"), "ate")
    assert [answer[0] for answer in said(loaded, asked)] == [answer[0] for answer in named]
    world.undo()
    assert said(world, asked) == before


def test_features_alone_are_enough_where_nothing_was_tuned(
    tiny: Backbone, six: OpenWorldSplit, asked: ImageDataset
) -> None:
    world = world_of(tiny, six)
    sight = world.look(asked)
    assert world.judge(world.look_at_features(sight.frozen)) == world.judge(sight)
    with pytest.raises(UsageError, match="frozen features"):
        world_of(tiny, six, "mlp").look_at_features(sight.frozen)
