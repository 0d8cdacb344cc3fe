"""A class that is known by its name only: what it is worth, what a detector says of it, how pictures sharpen it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.clip import load_backbone
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.data.sampling import OpenWorldSplit, split_open_world
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.classifier import FewShotClassifier
from clip_fewshot.few_shot.objectives import read_class_texts
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.store.store import Store
from clip_fewshot.probes import TextPriorProbe, ZeroShotProbe
from tests.open_world.conftest import command, write

HIDDEN = "three"


@pytest.fixture(scope="module")
def mini() -> Backbone:
    return load_backbone("mini", device="cpu")


@pytest.fixture(scope="module")
def parted(digits: ImageDataset) -> OpenWorldSplit:
    return split_open_world(digits, shots=6, unseen=[HIDDEN, "nine"], seed=0)


def strangers(split: OpenWorldSplit, name: str) -> ImageDataset:
    novel = split.novel.open("test of names")
    return novel.subset(np.flatnonzero(novel.required_labels() == novel.label_space.encode([name])[0]))


@pytest.fixture(scope="module")
def threes(parted: OpenWorldSplit) -> ImageDataset:
    return strangers(parted, HIDDEN)


@pytest.fixture(scope="module")
def nines(parted: OpenWorldSplit) -> ImageDataset:
    return strangers(parted, "nine")


@pytest.fixture(scope="module")
def asked(parted: OpenWorldSplit) -> ImageDataset:
    test = parted.test.open("test of names")
    return test.subset(np.arange(0, len(test), 4))


def fit_world(backbone: Backbone, split: OpenWorldSplit, approach: str = "text-prior", **options: Any):
    model = FewShotClassifier(backbone, approach, **options)
    return OpenWorldClassifier(model, detector="knn", alpha=0.1).fit(split.support)


@pytest.fixture(scope="module")
def fitted(mini: Backbone, parted: OpenWorldSplit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "w"
    fit_world(mini, parted).save(folder)
    return folder


@pytest.fixture
def world(fitted: Path, mini: Backbone) -> OpenWorldClassifier:
    return OpenWorldClassifier.load(fitted, mini)


def probe_logits(world: OpenWorldClassifier, pictures: ImageDataset, classes: int) -> bytes:
    """Of the first classes, in the order of their numbers."""
    found = world.model.model_.logits(world.look(pictures).frozen)[:, :classes]
    return np.ascontiguousarray(found).tobytes()


def said(world: OpenWorldClassifier, pictures: ImageDataset) -> list[tuple[object, ...]]:
    return [tuple(answer) for answer in world.judge(world.look(pictures))]


def found(world: OpenWorldClassifier, pictures: ImageDataset, name: str = HIDDEN) -> float:
    """Share whose most probable class is ``name``, whatever the detector says."""
    return float(np.mean([answer.top[0][0] == name for answer in world.judge(world.look(pictures))]))


def test_a_name_is_enough_and_pictures_sharpen_it(
    world: OpenWorldClassifier, threes: ImageDataset, asked: ImageDataset
) -> None:
    shots, test = threes.subset(np.arange(4)), threes.subset(np.arange(4, len(threes)))
    before, answers = probe_logits(world, asked, 8), said(world, asked)
    report = world.add_class(HIDDEN)
    assert (report.pictures, report.refitted) == ({HIDDEN: 0}, False)
    assert "cannot vouch" in report.notes[0]
    assert world.without_pictures == (HIDDEN,)
    assert probe_logits(world, asked, 8) == before
    shares = [found(world, test)]
    for count in (1, 2, 4):
        report = world.add_class(HIDDEN, shots.subset(np.arange(count)))
        assert (report.pictures, report.refitted) == ({HIDDEN: count}, False)
        assert not any("vouch" in note for note in report.notes)
        assert world.without_pictures == ()
        assert probe_logits(world, asked, 8) == before
        shares.append(found(world, test))
        world.undo()
    assert shares[0] > 0.5  # of nine classes
    assert shares[0] < shares[1] < shares[3]
    assert world.without_pictures == (HIDDEN,)
    assert world.undo().classes == {HIDDEN: ()}
    assert said(world, asked) == answers


def test_no_detector_vouches_for_a_name(
    world: OpenWorldClassifier, threes: ImageDataset, nines: ImageDataset, asked: ImageDataset
) -> None:
    """The detector is the one of before, so that known pictures are called unknown as often; no other stranger is
    taken for the class more often than not, and a picture of it is answered with its name however strange it is."""
    before, p = world.rejector_, [answer.p_value for answer in world.judge(world.look(asked))]
    flagged = np.mean([answer.label is None for answer in world.judge(world.look(asked))])
    world.add_class(HIDDEN)
    assert world.rejector_ is before
    after = world.judge(world.look(asked))
    assert [answer.p_value for answer in after] == p
    assert np.mean([answer.label is None for answer in after]) <= flagged
    named = [answer for answer in world.predict(threes) if answer.top[0][0] == HIDDEN]
    assert {(answer.label, answer.known_by) for answer in named} == {(HIDDEN, "name")}
    assert min(answer.p_value for answer in named) < 0.1
    rows = world.predict(threes).to_frame()
    assert set(rows["known_by"]) == {"name", "pictures", ""}
    assert set(rows["known_by"][rows["answer"] == "unknown"]) == {""}
    assert np.mean([answer.label == HIDDEN for answer in world.judge(world.look(nines))]) < 0.1
    assert world.score(threes) > 0.5


def test_names_survive_the_file_and_a_training(
    world: OpenWorldClassifier,
    mini: Backbone,
    threes: ImageDataset,
    nines: ImageDataset,
    asked: ImageDataset,
    tmp_path: Path,
) -> None:
    """A class in the middle that has no pictures, one behind it that has, then pictures for one that was there."""
    states, shares = [said(world, asked)], []
    for step in (
        lambda: world.extend({HIDDEN: None, "rest": nines.subset(np.arange(5))}),
        lambda: world.assign(asked.subset(np.arange(20, 24)), "one"),
        lambda: world.name(threes.subset(np.arange(3)), HIDDEN),
        lambda: world.add_class("ten"),
    ):
        report = step()
        states.append(said(world, asked))
        shares.append((found(world, threes), found(world, nines, "rest"), report.refitted))
    assert report.change is not None
    assert world.model.label_space_.names[-3:] == (HIDDEN, "rest", "ten")
    assert [refitted for *_, refitted in shares] == [False, True, False, False]
    assert min(three for three, *_ in shares[2:]) > 0.5
    assert min(nine for _, nine, _ in shares) > 0.5
    assert world.without_pictures == ("ten",)
    world.save(tmp_path / "w")
    loaded = OpenWorldClassifier.load(tmp_path / "w", mini)
    assert loaded.named_ == world.named_
    for state in reversed(states):
        assert said(loaded, asked) == state
        if loaded.named_:
            loaded.undo()
    with pytest.raises(UsageError, match="a naming"):
        loaded.undo()


def test_a_training_keeps_it(world: OpenWorldClassifier, threes: ImageDataset, asked: ImageDataset) -> None:
    world.add_class(HIDDEN)
    before = found(world, threes)
    report = world.assign(asked.subset(np.arange(20, 24)), asked.label_space.names[asked.required_labels()[20]])
    assert report.refitted
    assert world.without_pictures == (HIDDEN,)
    assert abs(found(world, threes) - before) < 0.15


def test_pictures_join_it_by_assign_too(world: OpenWorldClassifier, threes: ImageDataset, asked: ImageDataset) -> None:
    before = probe_logits(world, asked, 8)
    world.add_class(HIDDEN)
    assert not world.assign(threes.subset(np.arange(4)), HIDDEN).refitted
    assert probe_logits(world, asked, 8) == before
    with pytest.raises(UsageError, match="assign"):
        world.add_class(HIDDEN, threes.subset(np.arange(4, 8)))


@pytest.mark.parametrize(("approach", "options"), [("linear-probe", {}), ("mlp", {"unfreeze": 0, "epochs": 1})])
def test_who_reads_no_names_says_who_does(
    approach: str, options: dict[str, Any], tiny: Backbone, parted: OpenWorldSplit
) -> None:
    world = fit_world(tiny, parted, approach, **options)
    with pytest.raises(UsageError, match="text-prior"):
        world.add_class("axolotl")
    assert world.named_ == ()
    assert world.model.label_space_.names == parted.seen.names
    with pytest.raises(UsageError, match="class name"):
        world.add_class("One")


def test_zero_shot_reads_names_and_templates_are_used(
    mini: Backbone, parted: OpenWorldSplit, threes: ImageDataset
) -> None:
    world = fit_world(mini, parted, "zero-shot", templates=("the digit {}",))
    world.add_class(HIDDEN)
    probe = world.model.model_.probe
    assert isinstance(probe, ZeroShotProbe)
    expected = read_class_texts(mini, world.model.label_space_.names, ("the digit {}",))
    assert np.allclose(probe.texts_, expected, atol=1e-6)
    assert found(world, threes) > 0.5
    world.add_class(HIDDEN, threes.subset(np.arange(2)))
    assert np.allclose(probe.texts_, world.model.model_.probe.texts_, atol=1e-6)  # it learns nothing of pictures


def test_a_class_of_the_fit_does_not_go() -> None:
    X = np.eye(4)
    for kind in (TextPriorProbe, ZeroShotProbe):
        probe = kind({0: X[0] + 0.1, 1: X[1] + 0.1}).fit(X[:2], np.array([0, 1]))
        more = probe.extend(X[:0], 2, text=X[2]).extend(X[3:], 3, X[:2], text=X[3])
        fewer = more.without(2)
        assert fewer.classes_.tolist() == [0, 1, 3]
        assert np.ascontiguousarray(more.logits(X)[:, [0, 1, 3]]).tobytes() == fewer.logits(X).tobytes()
        for label in (0, 7):
            with pytest.raises(UsageError, match="was added"):
                more.without(label)


def test_a_store_keeps_a_name_and_judges_again_when_pictures_come(
    fitted: Path, mini: Backbone, threes: ImageDataset, tmp_path: Path
) -> None:
    with Store.create(tmp_path / "store", OpenWorldClassifier.load(fitted, mini)) as store:
        store.ingest(threes)
        digests = list(threes.digests)
        first = store.held(digests)
        done = store.add_class(HIDDEN)
        assert done.reports[0].pictures == {HIDDEN: 0}
        by_name = store.held(digests)
        taken = [d for d in digests if by_name[d].verdict.label == HIDDEN]
        assert len(taken) > len(digests) / 2
        assert {by_name[d].verdict.state for d in taken} == {"known"}
        store.add_class(HIDDEN, taken[:4])
        sharper = store.held(digests)
        assert [sharper[d].verdict.state for d in taken[:4]] == ["named"] * 4
        assert {sharper[d].verdict.judged for d in taken} == {2}  # those that only its name had are judged again
        store.undo()
        again = store.held(digests)
        assert all(again[d].verdict._replace(judged=0) == by_name[d].verdict._replace(judged=0) for d in digests)
    with Store.open(tmp_path / "store", mini) as store:
        assert store.world.without_pictures == (HIDDEN,)
        store.reembed(OpenWorldClassifier.load(fitted, mini), threes)
        assert store.world.without_pictures == (HIDDEN,)
        with pytest.raises(UsageError, match="decision"):
            store.undo()
    assert first.keys() == sharper.keys()


def test_the_command_adds_a_name_and_then_pictures(
    fitted: Path, threes: ImageDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, folder = tmp_path / "shop", tmp_path / "threes"
    write(threes, np.arange(12), folder)

    def run(*words: str | Path) -> str:
        assert command([*map(str, words)]) == 0
        return capsys.readouterr().out

    run("init", store, fitted)
    assert f"{HIDDEN} (0 pictures): what the other classes score stays the same" in run("add", store, HIDDEN)
    assert f"{HIDDEN} (name only)" in run("predict", store, folder)
    answers = json.loads(run("predict", store, folder, "--json"))["answers"]
    assert "name" in {answer["known_by"] for answer in answers}
    added = json.loads(run("add", store, HIDDEN, folder, "--json"))
    assert added["reports"][0]["pictures"] == {HIDDEN: 12}
    assert "(name only)" not in run("predict", store, folder)
    assert json.loads(run("undo", store, "--json"))["taken_back"] == []
    assert json.loads(run("undo", store, "--json"))["taken_back"] == [HIDDEN]
