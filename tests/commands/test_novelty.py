"""Novelty of a saved model: which pictures are compared, and that the figures are those of named libraries."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score, average_precision_score, roc_auc_score

import clip_fewshot as cf
from clip_fewshot.protocol.saved_detector import sides_of
from tests.commands.conftest import PER_CLASS, UNKNOWN, Command, one_line


def test_the_sealed_side_of_the_training_is_found_again(world: Path, photos: Path, split: Any) -> None:
    known, novel = sides_of(cf.OpenWorldClassifier.load(world), cf.read_dataset(photos))
    assert known.digests == split.test.open("test").digests
    assert not set(known.digests) & set(split.support.digests)
    assert set(novel.label_space.names) == set(UNKNOWN)
    assert len(novel) == 2 * PER_CLASS


def test_a_class_that_took_shots_from_its_test_side_is_not_measured_on_them(
    digits: cf.ImageDataset, mini: cf.Backbone
) -> None:
    six = digits.restrict(digits.label_space.names[:6])
    few = six.subset(np.concatenate([np.flatnonzero(six.required_labels() == c)[:6] for c in range(6)]))
    split = cf.split_open_world(few, shots=4, unseen=["five"], seed=0)
    assert "came from the test side" in split.warnings[0]
    model = cf.FewShotClassifier(mini, approach="linear-probe", seed=0)
    world = cf.OpenWorldClassifier(model, alpha=0.1).fit(split.support)
    known, novel = sides_of(world, few)
    assert known.digests == split.test.open("test").digests
    assert not set(known.digests) & set(split.support.digests)
    world.assign(known.subset([0]), split.seen.names[known.required_labels()[0]])  # no shot of the training
    assert sides_of(world, few).known.digests == known.digests
    assert novel.label_space.names == ("five",)


def test_figures_are_those_of_scikit_learn(command: Command, world: Path, photos: Path, split: Any) -> None:
    ended = command("novelty", photos, "--saved", world, "--alphas", "0.001,0.1,0.3", "--json")
    assert (ended.code, ended.err) == (0, "")
    found, model = ended.record, cf.OpenWorldClassifier.load(world)
    known, novel = split.test.open("test"), split.novel.open("test")
    answers = [*model.predict(known), *model.predict(novel)]
    is_novel = np.arange(len(answers)) >= len(known)
    assert (found["n_known"], found["n_novel"]) == (len(known), len(novel))
    assert found["auroc"]["mean"] == pytest.approx(roc_auc_score(is_novel, [-answer.score for answer in answers]))
    assert found["aupr"]["mean"] == pytest.approx(
        average_precision_score(is_novel, [-answer.score for answer in answers])
    )
    assert found["auroc"]["mean"] > 0.7
    refused, own, loose = found["rates"]
    assert "it takes 999 known images" in refused["refused"]
    assert "false_alarm_rate" not in refused
    for row in (own, loose):
        flagged = np.array([answer.p_value <= row["alpha"] + 1e-9 for answer in answers])
        assert row["false_alarm_rate"]["mean"] == pytest.approx(flagged[~is_novel].mean())
        assert row["detection_rate"]["mean"] == pytest.approx(flagged[is_novel].mean())
    names = [name for part in (known, novel) for name in part.label_space.decode(part.required_labels())]
    flagged = sum(answer.label is None for answer in answers)
    groups, shown = model.discover(), dict(zip([*known.digests, *novel.digests], names, strict=True))
    truth = [shown[digest] for digest in model.grouped_.pictures.digests]
    assert found["discovery"]["n_flagged"] == flagged > 0
    assert found["discovery"]["n_joined"] == len(truth) - flagged
    assert found["discovery"]["n_clusters"] == len(groups)
    assert found["discovery"]["ari"] == pytest.approx(adjusted_rand_score(truth, model.discovery_.labels))


def test_pictures_on_which_a_class_was_named_are_left_out(
    command: Command, world: Path, photos: Path, split: Any, tmp_path: Path
) -> None:
    model, novel = cf.OpenWorldClassifier.load(world), split.novel.open("naming")
    six = np.flatnonzero(novel.required_labels() == novel.label_space.encode(["six"])[0])[:5]
    model.name(novel.subset(six), "half a dozen")
    model.save(tmp_path / "named")
    ended = command("novelty", photos, "--saved", tmp_path / "named", "--json")
    assert ended.record["n_novel"] == 2 * PER_CLASS - 5
    assert ended.record["n_left_out"] == 5
    assert "left out, for a class was named on them: 5" in ended.err
    assert command("novelty", photos, "--saved", world, "--json").record["n_left_out"] == 0


def test_the_text_says_what_was_refused_and_grouped(command: Command, world: Path, photos: Path) -> None:
    text = command("novelty", photos, "--saved", world, "--alphas", "0.001,0.1").out
    assert "AUROC 0." in text
    assert "alpha 0.001 refused: it takes 999 known images" in text
    assert "that joined them, fall into" in text
    assert "fall into" not in command("novelty", photos, "--saved", world, "--no-discover").out


def test_one_unseen_class_alone(command: Command, world: Path, photos: Path) -> None:
    assert command("novelty", photos, "--saved", world, "--unseen", "six", "--json").record["n_novel"] == PER_CLASS


def test_unknown_pictures_from_elsewhere_without_labels(
    command: Command, world: Path, photos: Path, tmp_path: Path, split: Any
) -> None:
    for path in (photos / "six").iterdir():
        shutil.copy(path, tmp_path)
    found = command("novelty", photos, "--saved", world, "--novel", tmp_path, "--json").record
    assert (found["n_known"], found["n_novel"]) == (split.test.n, PER_CLASS)
    assert set(found["discovery"]) == {"n_flagged", "n_joined", "n_clusters", "reason"}


def test_fresh_pictures_are_all_used(command: Command, world: Path, photos: Path) -> None:
    found = command("novelty", photos, "--saved", world, "--fresh", "--json").record
    assert (found["n_known"], found["n_novel"]) == (5 * PER_CLASS, 2 * PER_CLASS)


def test_known_pictures_of_another_camera_are_said(command: Command, world: Path, photos: Path, tmp_path: Path) -> None:
    assert command("novelty", photos, "--saved", world, "--fresh", "--json").record["shift"]["verdict"] == "same"
    for path in photos.glob("*/*"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        with Image.open(path) as picture:
            picture.convert("L").point(lambda value: value // 2 + 90).save(tmp_path / path.relative_to(photos))
    found = command("novelty", tmp_path, "--saved", world, "--fresh", "--json").record
    assert (found["shift"]["verdict"], found["shift"]["pictures"]) == ("shift", found["n_known"])
    assert any("another camera" in note for note in found["notes"])


def test_mistakes_are_one_line(command: Command, world: Path, bare: Path, photos: Path, tmp_path: Path) -> None:
    one_line(command("novelty", photos, "--saved", bare), 2, "novelty detector")
    one_line(command("novelty", photos, "--saved", world, "--unseen", "zero"), 2, "some of seven, six")
    one_line(command("novelty", photos, "--saved", world, "--unseen", "six", "--novel", photos), 2, "leave one out")
    one_line(command("novelty", photos, "--saved", world, "--alphas", "0.1,2"), 2, "--alphas")
    one_line(command("novelty", photos, "--saved", world, "--unseen", "2"), 2, "names of classes")
    one_line(command("novelty", photos, "--saved", world, "--detectors", "lof"), 2, "--detectors without --saved")
    shutil.copytree(photos / "zero", tmp_path / "zero")
    shutil.copytree(photos / "one", tmp_path / "one")
    one_line(command("novelty", tmp_path, "--saved", world), 2, "--novel")
    (tmp_path / "zero").rename(tmp_path / "ants")
    (tmp_path / "one").rename(tmp_path / "bees")
    one_line(command("novelty", tmp_path, "--saved", world), 2, "classes the model knows")
